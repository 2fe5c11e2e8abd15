"""``llmx verify``: checks of an exported model in the real runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmx.artifact import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from llmx.verify.finding import Finding

FAILED = 1


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    help="Path or hub id of the weights.  [default: those that the artifact was made from]",
)
@click.option("--family", help="Family of CHECKPOINT, for a .pte file that fits several.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    model: Path, reference: str | None, family: str | None, as_json: bool, quiet: bool
) -> int:
    """Check an exported model: that it runs, ends, and computes what the checkpoint computes.

    The exit code is 1 if a check fails. An artifact's llmx.json records the outcome.
    """
    from llmx.cli.console import progress_display, stdout
    from llmx.verify.verifier import verify

    with progress_display(quiet=quiet) as progress:
        findings = verify(model, reference=reference, family=family, progress=progress)
    passed = all(each.passed is not False for each in findings)
    outcome = {"passed": passed, "checks": [each.to_dict() for each in findings]}
    if model.is_dir():
        record(model, verification=outcome)
    if as_json:
        click.echo(json.dumps(outcome, indent=2, ensure_ascii=False))
    else:
        _show(stdout(), findings)
    return 0 if passed else FAILED


def _show(console: Console, findings: Sequence[Finding]) -> None:
    from rich.markup import escape

    from llmx.cli.console import table

    made = table("check", "outcome", "figure", "at most", "")
    for each in findings:
        made.add_row(
            escape(each.name),
            _outcome(each.passed),
            _number(each.figure),
            _number(each.bound),
            escape(each.detail),
        )
    console.print(made)
    failed = sum(each.passed is False for each in findings)
    skipped = sum(each.passed is None for each in findings)
    console.print()
    console.print(
        f"{len(findings) - failed - skipped} passed, {failed} failed, {skipped} not checked"
    )


def _outcome(passed: bool | None) -> str:
    if passed is None:
        return "[yellow]not checked[/yellow]"
    return "[green]passed[/green]" if passed else "[bold red]FAILED[/bold red]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
