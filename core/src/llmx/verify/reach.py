"""As far as a text may reach: past the windows of layers, and up to the end of the context."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmx.run.feeding import FedProgram
from llmx.verify.consistency import PIECES
from llmx.verify.finding import Finding, Findings, Judge, distance, measured, skipped
from llmx.verify.reference import Reference

BEYOND = 256
"""Tokens past the window."""
LONGEST_WINDOW = 8192
"""Filling a longer one takes too long."""
LAST = 16
SLIDE = "agrees with the checkpoint's own model past the window"
DIVIDED = "past the window, calls of any length say the same"
END = "agrees with the checkpoint's own model at the end of the context"


def slide_length(window: int, context: int) -> int:
    """Tokens of a text that goes past ``window``, several times if it is short."""
    return min(context, window + BEYOND)


def check_slide(
    program: FedProgram, model: Reference, text: Sequence[int], judge: Judge, *, noise: float
) -> Findings:
    """Compare logits where the first tokens of a text have left the windows of layers.

    Args:
        text: of ``slide_length`` tokens.
        noise: bound of the difference between two ways to divide the text into calls.
    """
    window = model.window
    if window is None or not program.cached or len(text) <= window:
        return
    if window > LONGEST_WINDOW:
        yield skipped(SLIDE, f"filling a window of {window} tokens takes too long")
        return
    expected = model.logits(text, since=window)
    actual = _read_beyond(program, text, window, PIECES)
    rows = torch.tensor(list(actual)) - window
    detail = f"at {len(actual)} places up to token {len(text)}, with a window of {window}"
    yield judge(SLIDE, torch.stack(list(actual.values())), expected[rows], detail)
    if program.flexible:
        single = _read_beyond(program, text, window, (1,))
        pair = (torch.stack([each[at] for at in actual]) for each in (actual, single))
        yield measured(DIVIDED, distance(*pair), noise)


def check_end(program: FedProgram, model: Reference, text: Sequence[int], judge: Judge) -> Finding:
    """Compare logits behind the last tokens of ``text``, which fills the context."""
    start = len(text) - min(LAST, len(text))
    expected = model.logits(text, since=start)
    if program.cached and start:
        program.read(text[:start])
    actual = torch.stack(
        [
            program.feed(text[at : at + 1] if program.cached else text[: at + 1], at)
            for at in range(start, len(text))
        ]
    )
    return judge(END, actual, expected, _places(start, len(text)))


def check_end_of_empty(
    program: FedProgram, model: Reference, tokens: Sequence[int], context: int, judge: Judge
) -> Finding:
    """Compare logits behind the last positions, before which there is nothing.

    That takes no longer with a long context than with a short one.

    Args:
        program: freshly loaded, with empty caches.
    """
    tokens = tokens[:LAST]
    start = context - len(tokens)
    model.forget()
    expected = model.logits(tokens, start=start)
    actual = torch.stack(list(program.walk(tokens, start)))
    return judge(END, actual, expected, f"{_places(start, context)}, with nothing before them")


def _places(start: int, end: int) -> str:
    return f"positions {start} to {end - 1}"


def _read_beyond(
    program: FedProgram, text: Sequence[int], window: int, pieces: Sequence[int]
) -> Mapping[int, Tensor]:
    """Logits by the index of the token that they are behind, where a call ends past the window.

    Up to there calls are as long as may be, then as ``pieces`` says.
    """
    longest = program.longest if program.flexible else 1
    lengths = itertools.cycle(pieces)
    found: dict[int, Tensor] = {}
    at = 0
    while at < len(text):
        length = min(longest, longest if at < window else next(lengths))
        logits = program.feed(text[at : at + length], at)
        at = min(at + length, len(text))
        if at > window:
            found[at - 1] = logits
    return found
