"""Where a program's time goes, from the ETDump of a run: by operator, by layer, by line."""

from __future__ import annotations

import contextlib
import io
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from llmx.errors import ArtifactError
from llmx.quiet import hushed
from llmx.report.origin import Source, layer_of, module_in, source_in

RUN, WHOLE = "Execute", "Method::execute"
KERNEL_PREFIX = "native_call_"
KERNEL, DELEGATE = "OPERATOR_CALL", "DELEGATE_CALL"
FRAMEWORK = {WHOLE, KERNEL, DELEGATE}
NUMBERED = re.compile(r" #\d+$")


@frozen
class Part:
    """An operator within a delegate, by the backend's own name; ``milliseconds`` of one call."""

    name: str
    milliseconds: float


@frozen
class Step:
    """An instruction of the program.

    Attributes:
        name: the kernel's, or the backend's.
        delegate: whether it is a delegate, whose operators are ``parts`` where the backend told.
        milliseconds: median over the calls.
        layer: the decoder layer that most of it belongs to; ``None`` for none, or unknown.
        modules: paths of the modules that it computes.
        source: the line of the model that most of it comes from; ``None`` without an ETRecord.
    """

    instruction: int
    name: str
    delegate: bool
    milliseconds: float
    parts: tuple[Part, ...]
    layer: int | None
    modules: tuple[str, ...]
    source: Source | None


@frozen
class Row:
    """A share of the time of one call, in milliseconds, of ``calls`` operators."""

    name: str
    calls: int
    milliseconds: float


@frozen
class Profile:
    """One kind of call of a program: its steps, and the median time of ``calls`` calls in ms."""

    calls: int
    milliseconds: float
    steps: tuple[Step, ...]

    def by_operator(self) -> list[Row]:
        """Kernels, and what delegates are made of as far as they tell; the slowest first."""
        return _rows(
            (f"{step.name}: {each.name}" if step.delegate else each.name, each.milliseconds)
            for step in self.steps
            for each in _parts(step)
        )

    def by_layer(self) -> list[Row]:
        """Decoder layers in their order, and last what is outside of them."""
        rows = _rows(
            ("outside layers" if step.layer is None else f"layer {step.layer}", step.milliseconds)
            for step in self.steps
        )
        return sorted(rows, key=_layer_order)

    def by_line(self) -> list[Row]:
        """Lines of the model, the slowest first; steps of no known line are left out."""
        return _rows(
            (f"{step.source.file}:{step.source.line}  {step.source.code}", step.milliseconds)
            for step in self.steps
            if step.source is not None
        )


def read_profile(etdump: Path, etrecord: Path | None) -> Profile:
    """The calls of ``forward`` in an ETDump, linked to the model where there is an ETRecord.

    Raises:
        ArtifactError: a file is missing or damaged, they do not fit, or nothing was recorded.
    """
    for path in filter(None, (etdump, etrecord)):
        if not path.is_file():
            raise ArtifactError(f"no such file: {path}")
    blocks = [each for each in _inspected(etdump, etrecord) if each.name == RUN]
    if not blocks:
        raise ArtifactError(
            f"{etdump} has no record of a call",
            remedy="the runtime must be built with ETDump, and run the program before it is saved",
        )
    # Calls of one kind are one block: the most frequent kind counts.
    block = max(blocks, key=lambda each: len(_raw(each, WHOLE)))
    whole = _raw(block, WHOLE)
    steps = _in_layers(list(_steps(block.events)))
    total = statistics.median(whole) if whole else sum(each.milliseconds for each in steps)
    return Profile(len(whole), total, tuple(steps))


def _inspected(etdump: Path, etrecord: Path | None) -> Sequence[Any]:
    record = None if etrecord is None else str(etrecord)
    try:
        with hushed(), contextlib.redirect_stdout(io.StringIO()):
            from executorch.devtools import Inspector

            # Without their shapes these operators cannot be read back from a record.
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401

            inspector = Inspector(etdump_path=str(etdump), etrecord=record)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        files = str(etdump) if record is None else f"{etdump} with {record}"
        raise ArtifactError(
            f"{files} cannot be read: {reason}",
            remedy="name an ETDump of this very program, and the ETRecord of the same export",
        ) from error
    blocks: Sequence[Any] = inspector.event_blocks
    return blocks


def _raw(block: Any, name: str) -> list[float]:
    times: list[float] = []
    for event in block.events:
        if event.name == name and event.perf_data is not None:
            times.extend(event.perf_data.raw)
    return times


def _steps(events: Iterable[Any]) -> Iterator[Step]:
    by_instruction: dict[int, list[Any]] = defaultdict(list)
    for event in events:
        if event.perf_data is not None and event.name != WHOLE:
            by_instruction[event._instruction_id].append(event)
    for instruction, members in sorted(by_instruction.items()):
        frame = next((each for each in members if each.name in FRAMEWORK), None)
        if frame is None:
            continue
        inner = [each for each in members if each.name not in FRAMEWORK]
        delegate = frame.name == DELEGATE
        modules = [module_in(each) for each in frame.module_hierarchy.values()]
        yield Step(
            instruction=instruction,
            name=_name(frame, inner),
            delegate=delegate,
            milliseconds=_median(frame),
            parts=tuple(Part(NUMBERED.sub("", each.name), _median(each)) for each in inner)
            if delegate
            else (),
            layer=_most_frequent(layer_of(each) for each in modules),
            modules=tuple(sorted(set(filter(None, modules)))),
            source=_most_frequent(source_in(each) for each in frame.stack_traces.values()),
        )


def _name(frame: Any, inner: Sequence[Any]) -> str:
    if frame.name == DELEGATE:
        return str(frame.delegate_backend_name or "delegate")
    if inner:
        return str(inner[0].name.removeprefix(KERNEL_PREFIX))
    return str(frame.op_types[0]) if frame.op_types else "unnamed kernel"


def _in_layers(steps: list[Step]) -> list[Step]:
    """Kernels that nothing is known of belong to the layer that has begun and goes on after them.

    A delegate may belong to two layers, the end of one and the beginning of the next.
    """
    made, begun = list(steps), set[int]()
    for at, step in enumerate(steps):
        begun |= _layers(step)
        if step.modules or step.source is not None:
            continue
        after = next((_layers(each) for each in steps[at + 1 :] if each.modules), set())
        if len(common := begun & after) == 1:
            made[at] = evolve(step, layer=common.pop())
    return made


def _layers(step: Step) -> set[int]:
    return {layer for each in step.modules if (layer := layer_of(each)) is not None}


def _parts(step: Step) -> Iterator[Part]:
    """What a delegate is made of, and what it takes beyond that."""
    if not step.parts:
        yield Part("whole delegate" if step.delegate else step.name, step.milliseconds)
        return
    yield from step.parts
    yield Part(
        "rest of the delegates",
        max(0.0, step.milliseconds - sum(e.milliseconds for e in step.parts)),
    )


def _rows(shares: Iterable[tuple[str, float]]) -> list[Row]:
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for name, milliseconds in shares:
        calls[name] += 1
        times[name] += milliseconds  # type: ignore[assignment]
    rows = [Row(name, calls[name], float(times[name])) for name in calls]
    return sorted(rows, key=lambda row: -row.milliseconds)


def _layer_order(row: Row) -> tuple[bool, int]:
    word, _, number = row.name.partition(" ")
    return word != "layer", int(number) if number.isdigit() else 0


def _median(event: Any) -> float:
    return float(statistics.median(event.perf_data.raw))


def _most_frequent(values: Iterable[Any]) -> Any:
    known = Counter(each for each in values if each is not None)
    return known.most_common(1)[0][0] if known else None
