"""How a job's progress is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmx.cli.console import LineDisplay, LiveDisplay, progress_display
from llmx.progress import Stages


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


def run_job(display) -> None:
    with display as progress:
        stages = Stages(progress)
        with stages.stage("load [weights]"):
            assert list(stages.track([("layer 0", 0), ("layer 1", 1)], total=2))
        with stages.stage("lower"):
            stages.note("group size 32 divides every layer")


def test_a_log_gets_one_line_per_stage(screen):
    run_job(LineDisplay(Console(file=screen, width=1000)))
    first, note, last = screen.getvalue().splitlines()
    assert first.startswith("load [weights]")
    assert "GiB" in first
    assert note == "note: group size 32 divides every layer"
    assert last.startswith("lower")


def test_a_terminal_shows_the_running_stage_and_its_units(screen):
    console = Console(file=screen, force_terminal=True, width=120)
    run_job(LiveDisplay(console))
    assert "load [weights]" in screen.getvalue()
    assert "lower" in screen.getvalue()


def test_units_are_counted_while_a_stage_runs(screen):
    display = LiveDisplay(Console(file=screen, force_terminal=True, width=120))
    with display as progress:
        progress.stage_started("load")
        progress.advanced(1, 4, "layer 0")
        display._progress.refresh()
    assert "1/4" in screen.getvalue()
    assert "layer 0" in screen.getvalue()


def test_quiet_shows_nothing(capsys):
    run_job(progress_display(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_lines(capsys):
    assert type(progress_display(quiet=False)) is LineDisplay
