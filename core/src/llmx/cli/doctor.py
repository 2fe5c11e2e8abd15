"""``llmx doctor``: what this machine has for exports, and what to do about what it has not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable

import attrs
import click

from llmx.doctor import Observation, backends, hub, packages, room
from llmx.quiet import hushed, native_stderr_captured

MARKS = {"good": "ok", "note": "--", "bad": "!!"}
FAILED = 1


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Check versions, memory, disk, the hub and the backends, and say what to do.

    The exit code is 1 if something is wrong that exports cannot do without.
    """
    show: Callable[[Observation], None] = _ignore if as_json else _show
    seen: list[Observation] = []
    for section in (packages, room, hub):
        seen.extend(_shown(section(), show))
    # These load torch, which takes seconds and talks meanwhile.
    with hushed(), native_stderr_captured():
        asked = list(backends())
    seen.extend(_shown(asked, show))
    if as_json:
        click.echo(json.dumps([attrs.asdict(each) for each in seen], indent=2))
    return FAILED if any(each.state == "bad" for each in seen) else 0


def _shown(
    observations: Iterable[Observation], show: Callable[[Observation], None]
) -> list[Observation]:
    found = []
    for each in observations:
        show(each)
        found.append(each)
    return found


def _show(seen: Observation) -> None:
    click.echo(f"{MARKS[seen.state]}  {seen.subject:<20} {seen.found}")
    if seen.remedy is not None:
        click.echo(f"      {seen.remedy}")
    sys.stdout.flush()


def _ignore(seen: Observation) -> None:
    pass
