"""Rounding the columns of a matrix one after the other, each for what became of those before it.

Only a column at a time can be rounded, so this is thousands of small operations: they work on a
few columns in buffers that stay in the processor's cache, by views that are made once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmx.parallel import one_thread

BLOCK = 32
"""Columns that are rounded one by one before what comes of them reaches the others."""


def swept(
    targets: Tensor, origin: Tensor, coupling: Tensor, steps: Tensor, lowest: int, highest: int
) -> Tensor:
    """Integers [width, rows], as floats, of columns that are rounded one after the other.

    Column j is rounded to the nearest of its target plus ``coupling[j, i]`` times how far each
    column i before it came from its origin.

    Args:
        targets, origin, steps: [width, rows]; a column's integers count its rows' ``steps``.
        coupling: [width, width], of which only what is below the diagonal is read.
        lowest, highest: of the integers.
    """
    width, rows = targets.shape
    codes, moved = torch.empty_like(targets), torch.empty_like(targets)
    block = _Block(min(BLOCK, width), rows)
    for start in range(0, width, BLOCK):
        size = min(BLOCK, width - start)
        some = slice(start, start + size)
        torch.addmm(targets[some], coupling[some, :start], moved[:start], out=block.targets[:size])
        block.coupling[:size, :size] = coupling[some, some]
        block.steps[:size] = steps[some]
        torch.neg(origin[some], out=block.back[:size])
        with one_thread():
            block.round(size, lowest, highest)
        codes[some], moved[some] = block.codes[:size], block.moved[:size]
    return codes


class _Block:
    """Buffers for ``count`` columns of ``rows``.

    To be filled: ``targets``, ``steps``, ``coupling`` among these columns, and ``back``, their
    origin with its sign turned. Results: ``codes`` and how far columns ``moved``.
    """

    def __init__(self, count: int, rows: int) -> None:
        buffers = (torch.ones(count, rows) for _ in range(6))
        self.targets, self.steps, self.back, self.codes, self.moved, self._finer = buffers
        self.coupling = torch.empty(count, count)
        self._sum = torch.empty(1, rows)
        self._views = [
            (
                self.coupling[at : at + 1, :at],
                self.moved[:at],
                self.targets[at],
                self._finer[at],
                self.codes[at],
                self.back[at],
                self.steps[at],
                self.moved[at],
            )
            for at in range(count)
        ]

    def round(self, size: int, lowest: int, highest: int) -> None:
        """The first ``size`` columns."""
        torch.reciprocal(self.steps, out=self._finer)
        column = self._sum[0]
        for couple, before, target, finer, code, back, step, moved in self._views[:size]:
            torch.mm(couple, before, out=self._sum)
            column.add_(target).mul_(finer)
            torch.round(column, out=code).clamp_(lowest, highest)
            torch.addcmul(back, code, step, out=moved)
