"""Layers that compute with torchao's low-bit operators, and which of those are there.

Operators ``torchao::_pack_8bit_act_<bits>bit_weight`` and so on, as torchao's own Python code calls
them (``IntxOpaqueTensor``, ``torchao.prototype.quantization.embedding``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmx.quantize.codes import Codes
from llmx.quantize.plan import ROW_BITS, mode_of

if TYPE_CHECKING:
    from llmx.config import ExportJob

PACK, LINEAR = "_pack_8bit_act_{}bit_weight", "_linear_8bit_act_{}bit_weight"
PACK_TABLE, LOOK_UP = "_pack_embedding_{}bit", "_embedding_{}bit"
LOOK_UP_SHARED = "_shared_embedding_{}bit"


def missing(job: ExportJob) -> list[str]:
    """Operators that the job needs and that this torchao does not have."""
    import torchao  # noqa: F401  (registers what it has)

    return [name for name in _needed(job) if not hasattr(torch.ops.torchao, name)]


def _needed(job: ExportJob) -> Iterator[str]:
    quantization = job.quantization
    embedding = quantization.embedding_quantize
    if quantization.qmode is not None:
        widths = {mode_of(quantization.qmode)[0]}
        if quantization.head_quantize is not None:
            widths.add(int(quantization.head_quantize.split(",")[0]))
        if quantization.budget is not None:
            widths.add(ROW_BITS)
        for bits in sorted(widths):
            yield PACK.format(bits)
            yield LINEAR.format(bits)
    if embedding is None or not embedding.startswith("torchao:"):
        return
    bits = int(embedding.removeprefix("torchao:").split(",")[0])
    if job.model.use_shared_embedding:
        yield from (each.format(bits) for each in (PACK, LINEAR, LOOK_UP_SHARED))
    else:
        yield from (each.format(bits) for each in (PACK_TABLE, LOOK_UP))


def _operator(name: str, bits: int) -> Any:
    return getattr(torch.ops.torchao, name.format(bits))


def _packed(codes: Codes, bias: Tensor | None, layout: str | None) -> Tensor:
    packed: Tensor = _operator(PACK, codes.scheme.bits)(
        codes.values, codes.scales.float().reshape(-1), None, codes.scheme.group, bias, layout
    )
    return packed


class LowBitLinear(nn.Module):
    """A linear layer with int8 activations per token; ``packed`` holds weight, scales and bias."""

    packed: Tensor

    def __init__(self, linear: nn.Linear, codes: Codes, layout: str | None) -> None:
        super().__init__()
        self.group = codes.scheme.group
        self.outputs, self.inputs = codes.values.shape
        self.operator = _operator(LINEAR, codes.scheme.bits)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("packed", _packed(codes, bias, layout))

    @classmethod
    def in_layout(cls, layout: str | None) -> Callable[[nn.Linear, Codes], nn.Module]:
        """The factory of layers packed as ``layout``; ``None`` leaves it to torchao."""
        return partial(cls, layout=layout)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out]."""
        rows = x.reshape(-1, self.inputs)
        product = self.operator(rows, self.packed, self.group, self.outputs, self.inputs)
        out: Tensor = product.reshape(*x.shape[:-1], self.outputs)
        return out


class LowBitTable(nn.Module):
    """An embedding that looks up in what the head computes with; they are one buffer's bytes."""

    packed: Tensor

    def __init__(self, codes: Codes, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.group = codes.scheme.group
        self.vocabulary, self.dim = codes.values.shape
        self.operator = _operator(LOOK_UP_SHARED, codes.scheme.bits)
        self.register_buffer("packed", _packed(codes, None, "universal"))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, S] to [1, S, dim]."""
        flat = tokens.reshape(-1)
        rows = self.operator(self.packed, self.group, self.vocabulary, self.dim, flat)
        out: Tensor = rows.reshape(*tokens.shape, self.dim).to(self.dtype)
        return out


class LowBitEmbedding(nn.Module):
    """An embedding with a table of its own; ``scales`` and ``zeros`` are [vocab, dim / group]."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, codes: Codes, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.vocabulary, self.dim = codes.values.shape
        self.operator = _operator(LOOK_UP, codes.scheme.bits)
        self.register_buffer("packed", _operator(PACK_TABLE, codes.scheme.bits)(codes.values))
        self.register_buffer("scales", codes.scales.float())
        # The operator wants them also where they are all 0.
        self.register_buffer("zeros", torch.zeros_like(codes.scales, dtype=torch.int8))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [1, S] to [1, S, dim]."""
        flat = tokens.reshape(-1)
        rows = self.operator(self.packed, self.vocabulary, self.dim, self.scales, self.zeros, flat)
        out: Tensor = rows.reshape(*tokens.shape, self.dim).to(self.dtype)
        return out
