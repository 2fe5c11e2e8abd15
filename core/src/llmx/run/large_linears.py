"""Linear layers too large to be expanded to floats as a whole, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from llmx.memory import give_back
from llmx.run.expansion import expanding_quickly

LARGE, BLOCK = 1 << 24, 1 << 22
"""Weights; an eager layer of integers makes several float copies of them."""


@contextmanager
def large_linears_in_blocks(
    model: nn.Module, large: int = LARGE, block: int = BLOCK
) -> Iterator[None]:
    """Let linear layers of more than ``large`` weights compute ``block`` or fewer at a time."""
    # Subclasses may compute something else.
    linears = (each for each in model.modules() if isinstance(each, nn.Linear))
    found = [each for each in linears if type(each) is nn.Linear and each.weight.numel() > large]
    for linear in found:
        linear.forward = partial(_in_blocks, linear, block)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for linear in found:
            del linear.forward


def _in_blocks(linear: nn.Linear, block: int, x: Tensor) -> Tensor:
    """x [..., in] to [..., out]."""
    rows, width = linear.weight.shape
    step = max(1, block // width)
    parts = []
    for start in range(0, rows, step):
        some = slice(start, start + step)
        bias = None if linear.bias is None else linear.bias[some]
        weight = linear.weight[some]
        expanding_quickly(weight)
        parts.append(nn.functional.linear(x, weight, bias))
        # The C library might keep the floats of every block beside each other.
        give_back()
    return torch.cat(parts, dim=-1)
