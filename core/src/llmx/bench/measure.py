"""Load time, memory and speed of exported models, several of them in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import Factory, define, frozen

from llmx.errors import LlmxError, UserError
from llmx.progress import Progress, Silent, Stages
from llmx.run.program import read_program
from llmx.verify.subject import Subject

ANSWER = 32
ROUNDS = 5
LENGTHS = (16, 64, 256, 1024)


@frozen
class Spread:
    """Median, least and most of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@frozen
class Speed:
    """Behind a prompt of ``prompt`` tokens: seconds to the first token, and tokens per second."""

    prompt: int
    first_token_seconds: Spread
    prefill_rate: Spread
    decode_rate: Spread


@frozen
class Benchmark:
    """One model's figures.

    Attributes:
        load_seconds: from the file to the first call's end.
        loaded_bytes: resident memory that loading and the first call added to the process;
            ``None`` where the system does not tell.
        peak_bytes: the most that was added at any time, or ``None`` likewise.
        before_bytes: what the process held before: Python with the runtime.
    """

    name: str
    load_seconds: float
    loaded_bytes: int | None
    peak_bytes: int | None
    before_bytes: int
    speeds: tuple[Speed, ...]


def benchmark(
    paths: Sequence[Path],
    *,
    lengths: Sequence[int] | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> list[Benchmark]:
    """Time models in turns: one call of each, then the next, so that all meet the same machine.

    Args:
        paths: artifacts' folders, or ``.pte`` files.
        lengths: of prompts, in tokens; ``None`` takes those that the contexts have room for.
        rounds: measurements of each; one more before them is thrown away.

    Raises:
        ArtifactError: a program cannot be loaded.
        UserError: a length that a context has no room for.
    """
    stages = Stages(progress or Silent())
    programs = [Subject.open(path).program for path in paths]
    room = min(read_program(each).max_context_length for each in programs) - ANSWER - 1
    chosen = _lengths(lengths, room)
    with ExitStack() as stack:
        workers: list[_Worker] = []
        for path, program in zip(paths, programs, strict=True):
            with stages.stage(f"load {path.name}"):
                workers.append(stack.enter_context(_Worker(path.name, program)))
        total = (rounds + 1) * len(chosen) * len(workers)
        done = 0
        with stages.stage("measure"):
            for turn in range(rounds + 1):
                for length in chosen:
                    for worker in workers:
                        worker.run(length, keep=turn > 0)
                        done += 1
                        stages.display.advanced(done, total, f"{length} tokens")
        return [worker.result(chosen) for worker in workers]


def _lengths(wanted: Sequence[int] | None, room: int) -> Sequence[int]:
    if wanted is None:
        return [each for each in LENGTHS if each <= room] or [max(1, room)]
    for each in wanted:
        if not 1 <= each <= room:
            raise UserError(
                f"a prompt of {each} tokens and an answer of {ANSWER} do not fit the context",
                remedy=f"use lengths from 1 to {room}",
            )
    return wanted


@define
class _Worker:
    """A process that holds one program, and what it has measured, by prompt length."""

    name: str
    program: Path
    _process: Any = None
    _loaded: dict[str, Any] = Factory(dict)
    _first: dict[int, list[float]] = Factory(dict)
    _rest: dict[int, list[float]] = Factory(dict)
    _peak: int | None = None

    def __enter__(self) -> _Worker:
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "llmx.bench.worker", str(self.program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._loaded = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, prompt: int, *, keep: bool) -> None:
        self._process.stdin.write(json.dumps({"prompt": prompt, "answer": ANSWER}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._peak = answer["peak_bytes"]
        if keep:
            self._first.setdefault(prompt, []).append(answer["prefill_seconds"])
            self._rest.setdefault(prompt, []).append(answer["decode_seconds"])

    def result(self, lengths: Sequence[int]) -> Benchmark:
        return Benchmark(
            name=self.name,
            load_seconds=self._loaded["load_seconds"],
            loaded_bytes=self._loaded["loaded_bytes"],
            peak_bytes=self._peak,
            before_bytes=self._loaded["before_bytes"],
            speeds=tuple(
                Speed(
                    prompt=length,
                    first_token_seconds=Spread.of(self._first[length]),
                    prefill_rate=Spread.of([length / each for each in self._first[length]]),
                    decode_rate=Spread.of([ANSWER / each for each in self._rest[length]]),
                )
                for length in lengths
            ),
        )

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise LlmxError(
                f"the process that ran {self.program} ended: exit code {self._process.wait()}",
                remedy="it may have run out of memory",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LlmxError(answer["error"], remedy=answer.get("remedy"))
        return answer
