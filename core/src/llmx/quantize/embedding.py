"""Embedding tables of few bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmx.quantize.codes import Codes, Order, pack, unpack

LOOKUPS = {2: "embedding_2bit", 4: "embedding_4bit", 8: "embedding_byte"}
ORDERS: dict[int, Order] = {2: "first low", 4: "first high", 8: "first low"}
"""Where these operators expect the first of the codes in a byte."""


def quantized_operators() -> object:
    """ExecuTorch's quantized operators.

    The module that defines their eager versions is internal; ``tests/core/test_internals.py``
    fails when it moves.
    """
    import executorch.exir.passes._quant_patterns_and_replacements
    import executorch.kernels.quantized  # noqa: F401  (registers the out variants)

    return torch.ops.quantized_decomposed


class QuantizedEmbedding(nn.Module):
    """A table of integers, several in a byte, with one fp32 scale per group of a row.

    ``weight`` is [vocab, dim * bits / 8], int8 for 8 bits and else uint8; ``scales`` is
    [vocab, dim / group], and so are ``zero_points``, the (fractional) codes of the value 0, where
    they are not all 0. A lookup gives ``dtype``.
    """

    weight: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(
        self,
        codes: Codes,
        dtype: torch.dtype,
        *,
        order: Order | None = None,
        zero_points: Tensor | None = None,
    ) -> None:
        super().__init__()
        bits = codes.scheme.bits
        self.dtype = dtype
        self.bits = bits
        self.register_buffer("weight", pack(codes.values, bits, order or ORDERS[bits]))
        self.register_buffer("scales", codes.scales.float())
        self.register_buffer("zero_points", zero_points)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, S] to [1, S, dim]."""
        if torch.compiler.is_exporting():
            return self._operator()(tokens)
        flat = tokens.flatten()
        scales = self.scales[flat]
        values = unpack(self.weight[flat], self.bits, ORDERS[self.bits]).float()
        values = values.view(*scales.shape, -1)
        if self.zero_points is not None:
            values = values - self.zero_points[flat].float().unsqueeze(-1)
        return (values * scales.unsqueeze(-1)).view(*tokens.shape, -1).to(self.dtype)

    def rows(self, rows: slice) -> Tensor:
        """The values of some rows."""
        return self(torch.arange(rows.start, rows.stop))  # type: ignore[no-any-return]

    def _operator(self) -> Callable[[Tensor], Tensor]:
        """ExecuTorch's operator for this table, which is what the program gets."""
        low, high = -(1 << self.bits - 1), (1 << self.bits - 1) - 1
        lookup = getattr(quantized_operators(), LOOKUPS[self.bits]).dtype
        return lambda tokens: lookup(
            self.weight, self.scales, self.zero_points, low, high, tokens, dtype=self.dtype
        )


class NeighboursSwapped(QuantizedEmbedding):
    """A table of 4-bit codes whose bytes are those of most linear kernels: the first code low.

    The lookup operator reads the two codes of a byte in the other order; they are put right
    afterwards, in the few rows that were looked up.
    """

    def __init__(self, codes: Codes, dtype: torch.dtype) -> None:
        super().__init__(codes, dtype, order="first low")

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, S] to [1, S, dim]."""
        swapped = super().forward(tokens)
        pairs = swapped.view(1, -1, swapped.shape[-1] // 2, 2)
        return pairs.flip(-1).view(1, -1, swapped.shape[-1])


def table_as_kernels_read_it(codes: Codes, dtype: torch.dtype) -> nn.Module:
    """An embedding that keeps the bytes which a linear layer of the same codes has in a program."""
    form = NeighboursSwapped if codes.scheme.bits == 4 else QuantizedEmbedding
    return form(codes, dtype)
