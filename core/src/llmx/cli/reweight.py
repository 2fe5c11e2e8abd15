"""``llmx reweight``: an artifact's program with other weights."""

from __future__ import annotations

from pathlib import Path

import click

from llmx.artifact import Artifact
from llmx.cli.console import progress_display


@click.command("reweight")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--checkpoint", required=True, help="Path or hub id of the other weights.")
@click.option("--revision", help="Branch, tag or commit of a hub download.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write to."
)
@click.option("--json", "as_json", is_flag=True, help="Print the new artifact's llmx.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    artifact: Path,
    checkpoint: str,
    revision: str | None,
    output: Path,
    as_json: bool,
    quiet: bool,
) -> int:
    """Export another checkpoint of the same architecture as ARTIFACT was exported.

    ARTIFACT is the folder that llmx export wrote, or the program in it. If the cache still has
    what was lowered for it, the weights are only quantized and written into their places.
    """
    source = Artifact.open(artifact.parent if artifact.is_file() else artifact)
    from llmx.lower.reweight import reweight

    with progress_display(quiet=quiet) as progress:
        made = reweight(source, checkpoint, output, revision=revision, progress=progress)
    from llmx.cli.summary import report_export

    return report_export(made, as_json=as_json, verbose=False)
