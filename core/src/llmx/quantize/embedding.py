"""Embedding tables in groups of few bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmx.quantize.plan import Scheme

ROWS = 4096


def _operators() -> object:
    """ExecuTorch's quantized operators.

    The module that defines their eager versions is internal; ``tests/core/test_internals.py``
    fails when it moves.
    """
    import executorch.exir.passes._quant_patterns_and_replacements
    import executorch.kernels.quantized  # noqa: F401  (registers the out variants)

    return torch.ops.quantized_decomposed


class QuantizedEmbedding(nn.Module):
    """A table of unsigned or packed integers with one fp32 scale per group of a row.

    ``weight`` is [vocab, dim] int8, or [vocab, dim / 2] uint8 with the even element in the high
    nibble and both shifted by 8; ``scales`` is [vocab, dim / group], and so are ``zero_points``,
    the (fractional) codes of the value 0, where they are not all 0.
    """

    weight: Tensor
    scales: Tensor
    zero_points: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scales: Tensor,
        scheme: Scheme,
        dtype: torch.dtype,
        zero_points: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.low, self.high = -(1 << scheme.bits - 1), (1 << scheme.bits - 1) - 1
        operators = _operators()
        name = {4: "embedding_4bit", 8: "embedding_byte"}[scheme.bits]
        self.lookup = getattr(operators, name).dtype
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.register_buffer("zero_points", zero_points)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, S] to [1, S, dim]."""
        if torch.compiler.is_exporting():
            return self._look_up(self.weight, self.scales, self.zero_points, tokens)
        # The operator's eager version dequantizes the table that it is given: only these rows.
        flat = tokens.flatten()
        zero_points = None if self.zero_points is None else self.zero_points[flat]
        rows = self._look_up(
            self.weight[flat], self.scales[flat], zero_points, torch.arange(flat.numel())
        )
        return rows.view(*tokens.shape, -1)

    def rows(self, rows: slice) -> Tensor:
        """The values of some rows."""
        return self(torch.arange(rows.start, rows.stop))  # type: ignore[no-any-return]

    def _look_up(
        self, weight: Tensor, scales: Tensor, zero_points: Tensor | None, tokens: Tensor
    ) -> Tensor:
        out: Tensor = self.lookup(
            weight, scales, zero_points, self.low, self.high, tokens, dtype=self.dtype
        )
        return out


def quantize_embedding(table: Tensor, scheme: Scheme, dtype: torch.dtype) -> QuantizedEmbedding:
    """Round a float table [vocab, dim] to ``scheme``, symmetrically around zero.

    ``dtype`` is what a lookup returns. Works in blocks of rows, so that little beside the table
    itself is held in float.
    """
    blocks = torch.split(table, ROWS)
    weights, scales = zip(*(_round(rows, scheme) for rows in blocks), strict=True)
    return QuantizedEmbedding(torch.cat(weights), torch.cat(scales), scheme, dtype)


def _round(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    count, dim = rows.shape
    limit = (1 << scheme.bits - 1) - 1
    grouped = rows.float().view(count, dim // scheme.group, scheme.group)
    # Half a step beyond the largest code: the extreme value rounds into range on both sides.
    scales = (grouped.abs().amax(-1) / (limit + 0.5)).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (grouped / scales.unsqueeze(-1)).round().clamp(-limit - 1, limit).to(torch.int8)
    return pack_codes(codes.view(count, dim), scheme), scales


def pack_codes(codes: Tensor, scheme: Scheme) -> Tensor:
    """int8 codes [vocab, dim] as ``QuantizedEmbedding`` stores them."""
    if scheme.bits == 8:
        return codes
    shifted = (codes + 8).to(torch.uint8)
    return (shifted[:, 0::2] << 4) | shifted[:, 1::2]
