"""A flame graph of an export: where its stages spend their time, sampled."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from attrs import Factory, define

from llmx.errors import LlmxError, UserError
from llmx.progress import StageRecord, Stages
from llmx.report.origin import in_package

PAGE = files("llmx.report").joinpath("flame.html")
PLACE = "/*DATA*/"
INTERVAL = 0.005
LEAST_SHARE = 0.0005
BETWEEN = "between stages"
OURS = "llmx/lower/pipeline.py"


@define
class Frame:
    """A function and the seconds that were spent in it, its callees included."""

    name: str
    seconds: float = 0.0
    children: dict[str, Frame] = Factory(dict)

    def add(self, stack: Sequence[str], seconds: float) -> None:
        """Count a sample: what called what, the outermost first."""
        frame = self
        frame.seconds += seconds
        for name in stack:
            frame = frame.children.setdefault(name, Frame(name))
            frame.seconds += seconds

    def to_list(self, least: float) -> list[Any]:
        """[name, seconds, callees], the longest first, without those of less than ``least``."""
        kept = [each for each in self.children.values() if each.seconds >= least]
        kept.sort(key=lambda each: -each.seconds)
        return [self.name, round(self.seconds, 4), [each.to_list(least) for each in kept]]


@contextmanager
def profiled(path: Path | None, stages: Stages) -> Iterator[None]:
    """Sample this thread within the block and write the graph to ``path``, failed or not.

    Raises:
        UserError: the profiler is not installed, or ``path`` cannot be written.
    """
    if path is None:
        yield
        return
    profiler, begun = _started(path), time.perf_counter()
    try:
        yield
    finally:
        session = profiler.stop()
        try:
            path.write_text(_page(_tree(session.frame_records, begun, stages)), encoding="utf-8")
        except OSError as error:
            raise LlmxError(
                f"debug.profile_path: {path} cannot be written: {error.strerror or error}"
            ) from error


def _started(path: Path) -> Any:
    try:
        from pyinstrument import Profiler
    except ImportError as error:
        raise UserError(
            "debug.profile_path needs a profiler that is not installed",
            remedy="pip install 'llmx-core[profile]'",
        ) from error
    if not path.absolute().parent.is_dir():
        raise UserError(
            f"debug.profile_path: no such folder: {path.parent}", remedy="make it, or name another"
        )
    profiler = Profiler(interval=INTERVAL, async_mode="disabled")
    profiler.start()
    return profiler


def _tree(records: Sequence[tuple[Sequence[str], float]], begun: float, stages: Stages) -> Frame:
    """Samples by the stage that was under way, and below it by what called what."""
    root, at = Frame("export"), begun
    for record in stages.records:
        root.children.setdefault(record.name, Frame(record.name))
    for identifiers, seconds in records:
        at += seconds
        stage = _stage(stages.records, at - seconds / 2)
        root.add([stage, *_ours(list(map(_label, identifiers)))], seconds)
    return root


def _stage(records: Sequence[StageRecord], moment: float) -> str:
    # The innermost one began last.
    inside = [each for each in records if each.begun <= moment < each.begun + each.seconds]
    return max(inside, key=lambda each: each.begun).name if inside else BETWEEN


@functools.cache
def _label(identifier: str) -> str:
    function, file, line = identifier.partition("\x01")[0].split("\x00")[:3]
    return f"{function}  {in_package(file)}:{line}"


def _ours(stack: list[str]) -> list[str]:
    """Without whatever called the export: frames up to the pipeline's own."""
    entries = [at for at, label in enumerate(stack) if OURS in label]
    return stack[entries[-1] + 1 :] if entries else stack[-1:]


def _page(root: Frame) -> str:
    data = json.dumps(root.to_list(LEAST_SHARE * root.seconds)).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace(PLACE, data)
