"""However a text reaches the program, it says the same: at once, in pieces, token by token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from llmx.run.feeding import FedProgram
from llmx.verify.finding import Findings, distance, measured, skipped

PIECES = (7, 1, 12, 2)
ANSWER = 4


def check_consistency(program: FedProgram, tokens: Sequence[int], *, bound: float) -> Findings:
    """Compare logits behind the last token of ``tokens``.

    Args:
        tokens: a text of at least ``2 * ANSWER`` tokens that the context has room for, with
            ``ANSWER`` more.
        bound: for the difference of logits over their deviation.
    """
    if not program.cached:
        yield skipped("token by token equals prefill", "the program has no KV cache")
        return
    fresh = program.read(tokens)
    if program.flexible:
        yield measured("token by token equals prefill", _walked(program, tokens, fresh), bound)
        pieces = _read_in_pieces(program, tokens)
        yield measured("prefill in chunks equals one prefill", distance(pieces, fresh), bound)
    else:
        yield skipped("token by token equals prefill", "the program takes single tokens only")
    half = tokens[: len(tokens) // 2]
    answer = _answer(program, half, program.read(half))
    known = [*half, *answer]
    rest = tokens[len(half) :]
    second = program.read(rest, start=len(known))
    anew = program.read([*known, *rest])
    yield measured("second turn equals a fresh prefill", distance(second, anew), bound)
    again = program.read(tokens)
    yield measured("a new text is not disturbed by older ones", distance(again, fresh), bound)


def _walked(program: FedProgram, tokens: Sequence[int], fresh: Tensor) -> float:
    for at, token in enumerate(tokens):
        last = program.feed([token], at)
    return distance(last, fresh)


def _read_in_pieces(program: FedProgram, tokens: Sequence[int]) -> Tensor:
    at = 0
    for length in itertools.cycle(PIECES):
        length = min(length, program.longest)
        logits = program.feed(tokens[at : at + length], at)
        at += length
        if at >= len(tokens):
            return logits
    raise AssertionError("a cycle does not end")


def _answer(program: FedProgram, known: Sequence[int], logits: Tensor) -> list[int]:
    """What the program says next, left in its cache."""
    made: list[int] = []
    while len(made) < ANSWER:
        made.append(int(logits.argmax()))
        logits = program.feed(made[-1:], len(known) + len(made) - 1)
    return made
