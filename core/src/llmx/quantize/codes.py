"""Weights as integers and scales, and how small integers are packed into bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor

from llmx.quantize.plan import ROW_BITS, Scheme

Order = Literal["first low", "first high"]
"""Where in a byte the first of its codes is."""


@frozen(eq=False)
class Codes:
    """A weight [rows, width] as ``scheme`` says: a value is integer times scale of its group.

    ``values`` is int8 in -2^(bits-1) … 2^(bits-1) - 1; ``scales`` is [rows, width / group], in
    fp32 or bf16.
    """

    values: Tensor
    scales: Tensor
    scheme: Scheme

    def dequantize(self, rows: slice = slice(None)) -> Tensor:
        """The rounded weight in fp32, or some of its rows."""
        values, scales = self.values[rows].float(), self.scales[rows].float()
        grouped = values.view(len(values), -1, self.scheme.group)
        return (grouped * scales.unsqueeze(-1)).view_as(values)


Rounding = Callable[[Tensor, Scheme], Codes]
"""A float weight [rows, width] to integers: a way to choose scales and to round."""


def scale_dtype(scheme: Scheme) -> torch.dtype:
    """Kernels hold the scales of groups of few bits in bf16, one scale per row in fp32."""
    return torch.float32 if scheme.bits == ROW_BITS else torch.bfloat16


def pack(values: Tensor, bits: int, order: Order) -> Tensor:
    """[rows, width] int8 codes to uint8 [rows, width * bits / 8], shifted to 0 … 2^bits - 1.

    8 bits stay int8 as they are.
    """
    if bits == ROW_BITS:
        return values
    shifted = (values + (1 << bits - 1)).to(torch.uint8)
    per_byte = 8 // bits
    packed = torch.zeros_like(shifted[:, ::per_byte])
    for at in range(per_byte):
        place = at if order == "first low" else per_byte - 1 - at
        packed |= shifted[:, at::per_byte] << bits * place
    return packed


def unpack(packed: Tensor, bits: int, order: Order) -> Tensor:
    """What ``pack`` was given, int8."""
    if bits == ROW_BITS:
        return packed
    per_byte = 8 // bits
    places = [at if order == "first low" else per_byte - 1 - at for at in range(per_byte)]
    codes = torch.stack([packed >> bits * place & (1 << bits) - 1 for place in places], dim=-1)
    return codes.view(*packed.shape[:-1], -1).to(torch.int8) - (1 << bits - 1)
