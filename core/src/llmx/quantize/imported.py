"""Weights that a checkpoint brings as integers, put into the model as they are.

The kernels compute with 4-bit codes around zero in groups of a row, scales positive and in bf16,
or with 8-bit codes and one fp32 scale per row. What else a format has becomes a product of its
own: ``sum_i (s c_i + o) x_i = s sum_i c_i x_i + o sum_i x_i``, per group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional

from llmx.checkpoint.integers import IntegerWeight
from llmx.model.ops import QuantizedLinearFactory
from llmx.quantize.account import WeightRecord, relative_error
from llmx.quantize.codes import Codes, scale_dtype
from llmx.quantize.embedding import QuantizedEmbedding
from llmx.quantize.plan import Scheme

OFFSET_BITS = 32


class OffsetLinear(nn.Module):
    """A quantized linear layer whose groups have offsets.

    ``product`` is the layer without them; ``offsets`` is [out, groups]; ``ones`` [1, group] sums
    the inputs of each group.
    """

    ones: Tensor

    def __init__(self, product: nn.Module, offsets: Tensor, group: int) -> None:
        super().__init__()
        self.product = product
        self.offsets = nn.Parameter(offsets, requires_grad=False)
        self.register_buffer("ones", torch.ones(1, group, dtype=offsets.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        groups, group = self.offsets.shape[1], self.ones.shape[1]
        lead = x.shape[:-1]
        # One inferred dimension, and a product for the sum: delegates take both.
        sums = functional.linear(x.reshape(*_one_inferred(lead), groups, group), self.ones)
        offset = functional.linear(sums.reshape(*_one_inferred(lead), groups), self.offsets)
        out: Tensor = self.product(x) + offset
        return out


def _one_inferred(lead: torch.Size) -> tuple[int, ...]:
    return (*lead[:-1], -1)


@frozen(kw_only=True)
class ImportRules:
    """Which stored integers the target takes as they are.

    Attributes:
        refused: why nothing is to stay as it is, if so.
        linears: whether linear layers take integers at all.
        group_multiple: groups of 4-bit codes are a multiple of this, or whole rows.
        int8_groups: whether 8-bit codes may have several scales per row.
        offset_bits: how many bits per weight offsets may add to a linear layer.
        shrink: whether a scheme of the job with fewer bits wins over what is stored.
    """

    refused: str | None = None
    linears: bool = True
    group_multiple: int = 1
    int8_groups: bool = True
    offset_bits: float = math.inf
    shrink: bool = False

    def obstacle(
        self, module: nn.Module, weight: IntegerWeight, scheme: Scheme | None
    ) -> str | None:
        """Why ``module`` does not take ``weight`` as it is stored; ``None`` if it does.

        Args:
            scheme: what the job would make of floats.
        """
        if self.refused is not None:
            return self.refused
        if self.shrink and scheme is not None and scheme.bits < container_bits(weight):
            return f"the job asks for {scheme.bits} bits; quantization.imported=keep keeps them"
        if weight.group_of_column is not None:
            return "columns of a group are scattered (desc_act)"
        if isinstance(module, nn.Linear):
            return self._obstacle_in_linear(weight)
        return None if isinstance(module, nn.Embedding) else "only layers hold integers"

    def _obstacle_in_linear(self, weight: IntegerWeight) -> str | None:
        if not self.linears:
            return "kernels want floats of another type"
        group, whole_rows = weight.group, weight.scales.shape[1] == 1
        if weight.bits > 4:
            if not (whole_rows or self.int8_groups):
                return f"{weight.bits}-bit codes in groups of {group}; kernels take whole rows"
        elif group % self.group_multiple and not whole_rows:
            return f"groups of {group}; kernels take multiples of {self.group_multiple}"
        cost = OFFSET_BITS / group
        if cost > self.offset_bits and _kernel_offsets(weight)[1] is not None:
            bits = "1 bit" if cost == 1 else f"{cost:g} bits"
            return (
                f"groups have offsets, which add {bits} to each weight; "
                "quantization.imported=keep keeps them"
            )
        return None


ALL_IMPORTS = ImportRules()
"""Everything that is stored as integers stays so."""


@frozen(eq=False)
class KernelForm:
    """codes int8 [out, in], positive scales and maybe offsets, fp32 [out, groups]."""

    codes: Tensor
    scales: Tensor
    offsets: Tensor | None


def kernel_form(weight: IntegerWeight) -> KernelForm:
    """The same values with positive scales.

    The codes of a group whose scale is negative change their sign; where the lowest code has no
    counterpart they are complemented instead (``-c - 1``), which an offset makes up for.
    """
    complemented, offsets = _kernel_offsets(weight)
    codes, scales = weight.codes.view(*weight.scales.shape, weight.group), weight.scales
    codes = torch.where(complemented.unsqueeze(-1), ~codes, codes)
    codes = torch.where(((scales < 0) & ~complemented).unsqueeze(-1), -codes, codes)
    # Kernels refuse a scale of 0; such a group is its offset alone.
    empty = scales == 0
    codes = codes * ~empty.unsqueeze(-1)
    scales = torch.where(empty, torch.ones_like(scales), scales.abs())
    return KernelForm(codes.view(weight.shape), scales, offsets)


def _kernel_offsets(weight: IntegerWeight) -> tuple[Tensor, Tensor | None]:
    """Which groups [out, groups] are complemented, and the offsets, if any group needs one."""
    complemented = weight.scales < 0
    if complemented.any():
        lowest = weight.codes.view(*weight.scales.shape, weight.group).amin(-1)
        complemented &= lowest == -(1 << weight.bits - 1)
    offsets = torch.zeros_like(weight.scales) if weight.offsets is None else weight.offsets
    offsets = offsets - complemented * weight.scales
    return complemented, offsets if offsets.any() else None


def import_module(
    model: nn.Module,
    name: str,
    weight: IntegerWeight,
    quantized_linear: QuantizedLinearFactory,
    dtype: torch.dtype,
) -> WeightRecord:
    """Put ``weight`` into the module ``name``, which ``ImportRules`` found able to hold it.

    Args:
        model: its module is replaced.
        quantized_linear: the form that the kernels take.
        dtype: of activations.
    """
    module = model.get_submodule(name)
    made: nn.Module
    restored: Callable[[slice], Tensor]
    kind: Literal["linear", "embedding"]
    scheme, bias = import_scheme(weight), 0
    if isinstance(module, nn.Linear):
        form = kernel_form(weight)
        codes = Codes(form.codes, form.scales.to(scale_dtype(scheme)), scheme)
        bias = 0 if module.bias is None else module.bias.numel()
        made = import_linear(module, codes, form.offsets, quantized_linear, dtype)
        kind, restored = "linear", partial(_linear_rows, codes, form.offsets)
        stored_bytes = weight.codes.numel() * scheme.bits // 8 + codes.scales.nbytes
        if form.offsets is not None:
            stored_bytes += form.offsets.numel() * dtype.itemsize
    else:
        table = import_embedding(weight, dtype)
        made, kind, restored = table, "embedding", table.rows
        buffers = (table.weight, table.scales, table.zero_points)
        stored_bytes = sum(each.nbytes for each in buffers if each is not None)
    model.set_submodule(name, made)
    return WeightRecord(
        name=name,
        kind=kind,
        elements=weight.codes.numel() + bias,
        bits=scheme.bits,
        group=scheme.group,
        stored_bytes=stored_bytes + bias * dtype.itemsize,
        error=relative_error(weight, restored),
        stored=weight.stored,
    )


def _linear_rows(codes: Codes, offsets: Tensor | None, rows: slice) -> Tensor:
    values = codes.dequantize(rows)
    if offsets is not None:
        values = values + offsets[rows].repeat_interleave(codes.scheme.group, dim=1)
    return values


def import_linear(
    linear: nn.Linear,
    codes: Codes,
    offsets: Tensor | None,
    quantized_linear: QuantizedLinearFactory,
    dtype: torch.dtype,
) -> nn.Module:
    """``linear`` with these codes and int8 activations per token; biases stay."""
    # What the layer computes in is read off its weight.
    floats = torch.empty(linear.weight.shape, dtype=dtype, device="meta")
    linear.weight = nn.Parameter(floats, requires_grad=False)
    product = quantized_linear(linear, codes)
    if offsets is None:
        return product
    return OffsetLinear(product, offsets.to(dtype), codes.scheme.group)


def import_embedding(weight: IntegerWeight, dtype: torch.dtype) -> QuantizedEmbedding:
    """A table with these codes; a lookup gives ``dtype``."""
    scheme = import_scheme(weight)
    zero_points = None
    scales = weight.scales
    if weight.offsets is not None:
        empty = scales == 0
        scales = torch.where(empty, torch.ones_like(scales), scales)
        codes = weight.codes.view(*scales.shape, -1) * ~empty.unsqueeze(-1)
        zero_points = -weight.offsets / scales
    else:
        codes = weight.codes
    made = Codes(codes.view(weight.shape), scales, scheme)
    return QuantizedEmbedding(made, dtype, zero_points=zero_points)


def import_scheme(weight: IntegerWeight) -> Scheme:
    """Bits and group that the model stores."""
    return Scheme(container_bits(weight), weight.group)


def container_bits(weight: IntegerWeight) -> int:
    return 4 if weight.bits <= 4 else 8
