"""How long-running work tells the outside what it is doing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from attrs import Factory, define, frozen

from llmx.memory import give_back, peak_memory

T = TypeVar("T")


class Progress(Protocol):
    """A display; the terminal's is in ``llmx.cli.console``."""

    def stage_started(self, name: str) -> None:
        """A stage of the pipeline began."""

    def stage_ended(self, record: StageRecord) -> None:
        """The stage ended, well or not."""

    def advanced(self, done: int, total: int, what: str) -> None:
        """Within the stage, ``done`` of ``total`` units are finished; ``what`` is the last one."""

    def note(self, message: str) -> None:
        """Something the user should know, in one line."""


class Silent:
    """The display of library use: none."""

    def stage_started(self, name: str) -> None:
        pass

    def stage_ended(self, record: StageRecord) -> None:
        pass

    def advanced(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass


@frozen
class StageRecord:
    """When it began (seconds of ``time.perf_counter``), how long it took, and the process's peak
    resident memory in bytes when it ended."""

    name: str
    begun: float
    seconds: float
    peak_bytes: int


@define
class Stages:
    """Times the stages of a job and passes events on to a display."""

    display: Progress = Factory(Silent)
    records: list[StageRecord] = Factory(list)
    notes: list[str] = Factory(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.display.stage_started(name)
        try:
            yield
        finally:
            give_back()
            record = StageRecord(name, start, time.perf_counter() - start, peak_memory())
            self.records.append(record)
            self.display.stage_ended(record)

    def track(self, items: Iterable[tuple[str, T]], total: int) -> Iterator[tuple[str, T]]:
        """Yield the items and report each as done once the consumer asks for the next."""
        for done, (name, item) in enumerate(items, start=1):
            yield name, item
            self.display.advanced(done, total, name)

    def note(self, message: str) -> None:
        self.notes.append(message)
        self.display.note(message)
