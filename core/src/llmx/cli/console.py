"""The terminal: consoles for results and messages, and the display of a job's progress."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

from llmx.progress import Progress, Silent, StageRecord

PIPE_WIDTH = 1000  # columns: a pipe has no width, and nothing may be cut


def stdout() -> Console:
    """For results. Rich leaves colours out when this is no terminal, or under NO_COLOR."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def stderr() -> Console:
    """For messages about the work."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def table(*headings: str) -> Table:
    """An unboxed table; where a terminal is too narrow, the last column wraps."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, no_wrap=heading != headings[-1])
    return made


def progress_display(*, quiet: bool) -> JobDisplay:
    """What suits the terminal: a live line, one line per stage, or nothing when ``quiet``."""
    if quiet:
        return JobDisplay()
    console = stderr()
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


def describe(record: StageRecord) -> str:
    """A finished stage in one line."""
    return f"{record.name:<24} {record.seconds:7.1f} s   peak {record.peak_bytes / 2**30:.2f} GiB"


class JobDisplay(Silent):
    """A display that is open during a ``with`` block; this one shows nothing."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


class LineDisplay(JobDisplay):
    """One line per finished stage, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def stage_ended(self, record: StageRecord) -> None:
        self._console.print(escape(describe(record)))

    def note(self, message: str) -> None:
        self._console.print(f"note: {escape(message)}")


class LiveDisplay(LineDisplay):
    """The running stage on a line of its own: spinner, elapsed time, and a bar once it counts."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            _OnceCounting(BarColumn()),
            _OnceCounting(MofNCompleteColumn()),
            TextColumn("{task.fields[what]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Progress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage_started(self, name: str) -> None:
        self._progress.add_task(escape(name), total=None, what="")

    def stage_ended(self, record: StageRecord) -> None:
        self._progress.remove_task(self._progress.task_ids[-1])
        super().stage_ended(record)

    def advanced(self, done: int, total: int, what: str) -> None:
        for task in self._progress.task_ids[-1:]:
            self._progress.update(task, completed=done, total=total, what=escape(what))


class _OnceCounting(ProgressColumn):
    """Another column, left empty while the number of units is unknown."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return self._column.render(task) if task.total is not None else ""
