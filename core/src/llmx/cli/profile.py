"""``llmx profile``: where an exported model spends its time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.artifact import Artifact
from llmx.lower.side_files import RECORD_NAME

if TYPE_CHECKING:
    from rich.table import Table

    from llmx.report.profile import Profile, Row

NO_RECORD = (
    "without an ETRecord, layers and lines of the model are unknown: "
    "export with debug.generate_etrecord=true"
)
MOST_ROWS = 20


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option("--etdump", type=click.Path(path_type=Path), help="Record of a run on a device.")
@click.option(
    "--etrecord",
    type=click.Path(path_type=Path),
    help="Link to the model's source.  [default: etrecord.bin beside the program]",
)
@click.option(
    "--tokens", type=click.IntRange(min=1), default=1, show_default=True, help="In each call."
)
@click.option(
    "--context", type=click.IntRange(min=0), help="Tokens before them.  [default: at most 128]"
)
@click.option("--calls", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every step.")
def command(
    model: Path,
    etdump: Path | None,
    etrecord: Path | None,
    tokens: int,
    context: int | None,
    calls: int,
    as_json: bool,
) -> None:
    """Show the time of a call by decoder layer, operator and line of the model.

    The program is run here, or a device's ETDump of it is read. Figures are medians over the calls.
    """
    program = Artifact.open(model).program if model.is_dir() else model
    record = etrecord or _beside(program)
    from llmx.report.profile import read_profile

    if etdump is not None:
        words = etdump.name
        found = read_profile(etdump, record)
    else:
        from llmx.run.etdump import recorded_calls, usual_context
        from llmx.run.program import read_program

        info = read_program(program)
        before = usual_context(info, tokens) if context is None else context
        words = f"{tokens} {'token' if tokens == 1 else 'tokens'} after {before}"
        with recorded_calls(info, tokens=tokens, context=before, calls=calls) as recorded:
            found = read_profile(recorded, record)
    if as_json:
        click.echo(json.dumps(_to_json(found), indent=2))
        return
    _show(found, words, linked=record is not None)


def _beside(program: Path) -> Path | None:
    record = program.parent / RECORD_NAME
    return record if record.is_file() else None


def _to_json(profile: Profile) -> dict[str, Any]:
    import attrs

    return {
        **attrs.asdict(profile),
        "layers": [attrs.asdict(each) for each in profile.by_layer()],
        "operators": [attrs.asdict(each) for each in profile.by_operator()],
        "lines": [attrs.asdict(each) for each in profile.by_line()],
    }


def _show(profile: Profile, words: str, *, linked: bool) -> None:
    from llmx.cli.console import stderr, stdout

    console = stdout()
    plural = "s" if profile.calls != 1 else ""
    console.print(f"{words}: {profile.milliseconds:.3f} ms, median of {profile.calls} call{plural}")
    if linked:
        console.print()
        console.print(_table("layer", profile.by_layer(), profile))
    console.print()
    console.print(_table("operator", profile.by_operator()[:MOST_ROWS], profile))
    if linked:
        console.print()
        console.print(_table("line of the model", profile.by_line()[:MOST_ROWS], profile))
    else:
        stderr().print(f"note: {NO_RECORD}")


def _table(heading: str, rows: Sequence[Row], profile: Profile) -> Table:
    from rich.markup import escape

    from llmx.cli.console import table

    made = table("ms", "share", "steps", heading)
    for each in rows:
        share = each.milliseconds / profile.milliseconds if profile.milliseconds else 0.0
        made.add_row(f"{each.milliseconds:.3f}", f"{share:.1%}", str(each.calls), escape(each.name))
    return made
