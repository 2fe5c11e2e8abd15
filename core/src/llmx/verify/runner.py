"""What ExecuTorch's runner does with the program: its ends, and the end of the context."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from llmx.errors import LlmxError, UserError
from llmx.pte import read_contents
from llmx.pte.constants import overwrite_constants
from llmx.pte.data_files import find_files
from llmx.pte.flatbuffer import MalformedError
from llmx.run.engine import Engine
from llmx.run.feeding import FedProgram
from llmx.run.program import ProgramInfo
from llmx.verify.finding import Finding, Findings, measured, skipped

SPOKEN = 16
LONGEST_CONTEXT = 4096
"""Filling a longer context takes too long."""
ENDS = "get_eos_ids"


def answer_of(program: FedProgram, prompt: Sequence[int], count: int = SPOKEN) -> list[int]:
    """The tokens that the program's own logits ask for; it is called as the runner calls it."""
    logits = program.read(prompt)
    known = list(prompt)
    while len(known) < len(prompt) + count:
        known.append(int(logits.argmax()))
        logits = program.feed(known[-1:] if program.cached else known, len(known) - 1)
    return known[len(prompt) :]


def check_answer(engine: Engine, prompt: Sequence[int], expected: Sequence[int]) -> Finding:
    """The runner makes the expected tokens, or the first of them; counts those it does not."""
    heard = engine.uninterrupted(prompt, len(expected))
    differing = sum(a != b for a, b in zip(heard, expected, strict=False))
    return measured("the runner follows the program", differing, 0, f"of {len(heard)} tokens")


def check_ends(info: ProgramInfo, spoken: Sequence[int], prompt: Sequence[int]) -> Findings:
    """The runner stops at each of the end tokens.

    In a copy of the program, a token that the model is known to say takes the place of the end
    token: the runner must fall silent there.

    Args:
        spoken: what the runner makes after ``prompt``.
    """
    if not info.eos_ids:
        yield Finding("stops at end tokens", False, detail="the program names none")
        return
    # The runner (1.5) overlooks an end token that comes first.
    at = next((at for at in range(1, len(spoken) - 1) if spoken[at] not in spoken[:at]), None)
    found = read_contents(info.path).metadata[ENDS]
    ids = found if isinstance(found, tuple) else (found,)
    for index, token in enumerate(ids):
        name = f"stops at end token {token}"
        if at is None:
            yield skipped(name, "the model says one token only, which leaves nothing to try")
            continue
        with tempfile.TemporaryDirectory(prefix="llmx-") as folder:
            copy = Path(shutil.copyfile(info.path, Path(folder) / "model.pte"))
            for each in find_files(info.path):
                (Path(folder) / each.name).symlink_to(each.resolve())
            try:
                overwrite_constants(copy, ENDS, {index: spoken[at]})
            except MalformedError as error:
                yield skipped(name, str(error))
                continue
            heard = Engine(attrs.evolve(info, path=copy)).uninterrupted(prompt, len(spoken))
        beyond = len(heard) - (at + 1)
        yield measured(name, abs(beyond), 0, "tokens too many or too few")


def check_context(engine: Engine, prompt: Sequence[int]) -> Findings:
    """A text that fills the context is refused in words; one that nearly does ends at its limit."""
    length = engine.program.max_context_length
    text = [prompt[at % len(prompt)] for at in range(length)]
    try:
        engine.generate(text, max_new_tokens=None, temperature=0.0, on_token=lambda token: None)
    except UserError as error:
        yield Finding("a prompt without room is refused", True, detail=error.message)
    except LlmxError as error:
        yield Finding("a prompt without room is refused", False, detail=error.message)
    else:
        yield Finding("a prompt without room is refused", False, detail="it was accepted")
    if length > LONGEST_CONTEXT:
        yield skipped("ends where the context ends", f"filling {length} tokens takes too long")
        return
    room = min(4, length - 1)
    try:
        run = engine.generate(
            text[:-room], max_new_tokens=None, temperature=0.0, on_token=lambda token: None
        )
    except LlmxError as error:
        yield Finding("ends where the context ends", False, detail=error.message)
        return
    passed = run.stop_reason in ("context", "end") and len(run.tokens) <= room
    detail = f"{len(run.tokens)} tokens after {length - room} of {length}: {run.stop_reason}"
    yield Finding("ends where the context ends", passed, detail=detail)
