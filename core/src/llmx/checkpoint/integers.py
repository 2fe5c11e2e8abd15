"""Weights as quantized checkpoints store them: integers, with a scale per group of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(eq=False)
class IntegerWeight:
    """A matrix ``w[o, i] = scales[o, g] * codes[o, i] + offsets[o, g]``.

    Attributes:
        codes: int8 [out, in], from ``-2**(bits - 1)`` to ``2**(bits - 1) - 1``.
        scales: fp32 [out, groups]; may be negative or zero.
        offsets: fp32 [out, groups] where groups have a minimum or a zero point, else ``None``.
        bits: that a code takes in the checkpoint.
        stored: the checkpoint's name for the format.
        group_of_column: int64 [in], the group of each column, where a group's columns do not
            lie side by side; else ``None``.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None
    bits: int
    stored: str
    group_of_column: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def group(self) -> int:
        """Columns per scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def __getitem__(self, rows: slice | Tensor) -> IntegerWeight:
        """The same matrix with some of its rows, in their order."""
        return evolve(
            self,
            codes=self.codes[rows],
            scales=self.scales[rows],
            offsets=None if self.offsets is None else self.offsets[rows],
        )

    def dequantize(self) -> Tensor:
        """The values in fp32, [out, in]."""
        if self.group_of_column is not None:
            codes = self.codes.unsqueeze(-1)
            scales, offsets = (self._by_column(each) for each in (self.scales, self.offsets))
        else:
            codes = self.codes.view(*self.scales.shape, self.group)
            scales, offsets = self.scales, self.offsets
        assert scales is not None
        values = codes * scales.unsqueeze(-1)
        if offsets is not None:
            values += offsets.unsqueeze(-1)
        return values.view(self.shape)

    def _by_column(self, groups: Tensor | None) -> Tensor | None:
        return None if groups is None else groups[:, self.group_of_column]
