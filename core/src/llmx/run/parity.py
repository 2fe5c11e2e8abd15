"""Does the exported program compute what the eager model computes?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor, nn

from llmx.run.runtime import ProgramMethod

PROMPT_LENGTH = 12
DECODED = 2
# Largest difference of logits over their standard deviation. A program in fp32 differs by
# summation order; in the narrow types by rounding in every operator; int8 activations may round
# to the other side of a tie.
BOUNDS = {torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.3}


@frozen
class Check:
    """A comparison that was made: ``figure`` must not exceed ``bound``."""

    name: str
    figure: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.figure <= self.bound


def check_parity(
    program: Path,
    model: nn.Module,
    *,
    dtype: torch.dtype,
    kv_cache: bool,
    dynamic: bool,
    max_seq_length: int,
    vocab_size: int,
) -> list[Check]:
    """Run a short prompt and a few decoding steps through both, and compare logits.

    The figure is the largest difference over the standard deviation of the eager logits.
    """
    method = ProgramMethod(program)
    generator = torch.Generator().manual_seed(0)
    length = max(1, min(PROMPT_LENGTH, max_seq_length - DECODED))
    tokens = torch.randint(vocab_size, (1, length + DECODED), generator=generator)
    checks = []
    for name, inputs in _calls(tokens, length, kv_cache=kv_cache, dynamic=dynamic):
        with torch.no_grad():
            expected = model(*inputs).float()
        actual = method(*inputs).float()
        figure = float((actual - expected).abs().max() / expected.std())
        checks.append(Check(name, figure if figure == figure else float("inf"), BOUNDS[dtype]))
    return checks


def _calls(
    tokens: Tensor, length: int, *, kv_cache: bool, dynamic: bool
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    if not kv_cache:
        yield "prompt equals eager", (tokens[:, :length],)
        yield "longer prompt equals eager", (tokens,)
        return
    start = 0
    if dynamic:
        yield "prefill equals eager", (tokens[:, :length], torch.tensor([0]))
        start = length
    for position in range(start, tokens.shape[1]):
        yield (
            f"decode at {position} equals eager",
            (tokens[:, position : position + 1], torch.tensor([position])),
        )
