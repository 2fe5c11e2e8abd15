"""Fill a meta-device model with weights, one tensor at a time, quantizing as they arrive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from llmx.quantize.account import WeightRecord
from llmx.quantize.embedding import ROWS, quantize_embedding
from llmx.quantize.linear import quantize_linear
from llmx.quantize.plan import Scheme


def load_weights(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    schemes: Mapping[str, Scheme],
    *,
    dtype: torch.dtype,
    tied: Mapping[str, str],
    hqq: bool,
) -> Iterator[WeightRecord]:
    """Assign each (parameter name, tensor); quantize a module once it has all its parameters.

    Lazy: the next tensor is read when the next record is asked for, and the float form of a
    quantized weight is dropped before that.

    Args:
        model: parameters on the meta device.
        tensors: every parameter except tied ones, shapes already checked.
        schemes: modules to quantize; the others keep ``dtype``.
        dtype: float type of what is not quantized.
        tied: parameter name to the further one that takes the same values.
        hqq: refine the scales of linear layers.
    """
    waiting = {
        name: {key for key, _ in module.named_parameters(recurse=False)}
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    for source, tensor in tensors:
        # Contiguous: a slice of a fused tensor would keep the whole of it alive.
        values = tensor.to(dtype).contiguous()
        for name in (source, tied[source]) if source in tied else (source,):
            owner, _, key = name.rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, key, nn.Parameter(values, requires_grad=False))
            waiting[owner].remove(key)
            if not waiting[owner]:
                del waiting[owner]
                yield _finish(model, owner, module, schemes.get(owner), dtype, hqq)
    if waiting:
        raise AssertionError(f"no weights came for {sorted(waiting)}")


def _finish(
    model: nn.Module,
    name: str,
    module: nn.Module,
    scheme: Scheme | None,
    dtype: torch.dtype,
    hqq: bool,
) -> WeightRecord:
    elements = sum(each.numel() for each in module.parameters(recurse=False))
    kind: Literal["linear", "embedding", "other"] = "other"
    error = 0.0
    stored = elements * dtype.itemsize
    if isinstance(module, nn.Linear):
        kind = "linear"
        if scheme is not None:
            original = module.weight.detach()
            quantize_linear(module, scheme, hqq=hqq)
            error = _relative_error(original, lambda rows: module.weight[rows].dequantize())
            scale_bytes = 4 if scheme.group == module.in_features else 2
            stored = _packed_bytes(original, scheme, scale_bytes)
            stored += 0 if module.bias is None else module.bias.numel() * dtype.itemsize
    elif isinstance(module, nn.Embedding):
        kind = "embedding"
        if scheme is not None:
            original = module.weight.detach()
            quantized = quantize_embedding(original, scheme, dtype)
            error = _relative_error(original, lambda rows: quantized(_indices(rows)))
            stored = _packed_bytes(original, scheme, 4)
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, quantized)
    return WeightRecord(
        name=name,
        kind=kind,
        elements=elements,
        bits=dtype.itemsize * 8 if scheme is None else scheme.bits,
        group=None if scheme is None else scheme.group,
        stored_bytes=stored,
        error=error,
    )


def _packed_bytes(weight: Tensor, scheme: Scheme, scale_bytes: int) -> int:
    return weight.numel() * scheme.bits // 8 + weight.numel() // scheme.group * scale_bytes


def _relative_error(original: Tensor, restored: Callable[[slice], Tensor]) -> float:
    """Frobenius norm of the difference over that of ``original``, in blocks of rows."""
    difference = total = 0.0
    for start in range(0, original.shape[0], ROWS):
        rows = slice(start, min(start + ROWS, original.shape[0]))
        block = original[rows].float()
        difference += float((block - restored(rows).float()).square().sum())
        total += float(block.square().sum())
    return math.sqrt(difference / total) if total else 0.0


def _indices(rows: slice) -> Tensor:
    return torch.arange(rows.start, rows.stop)
