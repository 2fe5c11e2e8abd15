"""``llmx export``: a checkpoint in, a folder with a program out."""

from __future__ import annotations

import json

import click

from llmx.cli.console import progress_display, stdout
from llmx.cli.job_options import EPILOG, JOB_CONTEXT, JobArguments, job_options


@click.command("export", context_settings=JOB_CONTEXT, epilog=EPILOG)
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print the artifact's llmx.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(job: JobArguments, as_json: bool, quiet: bool) -> None:
    """Export a model to ExecuTorch.

    FAMILY is an installed model family (see `llmx models`); KEY=VALUE sets any option of
    `llmx config`, e.g. model.use_kv_cache=true.
    """
    resolved = job.resolve()
    from llmx.lower import export

    with progress_display(quiet=quiet) as progress:
        artifact = export(resolved.job, progress=progress)
    if as_json:
        click.echo(json.dumps(artifact.manifest, indent=2))
        return
    from llmx.cli.summary import print_summary

    print_summary(stdout(), artifact, verbose=resolved.job.debug.verbose)
