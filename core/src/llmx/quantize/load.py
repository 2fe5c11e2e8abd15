"""Fill a meta-device model with weights, one tensor at a time, quantizing as they arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from attrs import evolve
from torch import Tensor, nn

from llmx.checkpoint import IntegerWeight
from llmx.quantize.account import WeightRecord, relative_error
from llmx.quantize.embedding import quantize_embedding
from llmx.quantize.imported import ALL_IMPORTS, ImportRules, import_module
from llmx.quantize.linear import quantize_linear
from llmx.quantize.plan import Scheme


def load_weights(
    model: nn.Module,
    tensors: Iterable[tuple[str, Tensor | IntegerWeight]],
    schemes: Mapping[str, Scheme],
    *,
    dtype: torch.dtype,
    tied: Mapping[str, str],
    hqq: bool,
    imports: ImportRules = ALL_IMPORTS,
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
        imports: which integers of the checkpoint stay as they are; the others are expanded and
            treated like floats.
    """
    integers: dict[str, IntegerWeight] = {}
    waiting = {
        name: {key for key, _ in module.named_parameters(recurse=False)}
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    for source, tensor in tensors:
        for name in (source, tied[source]) if source in tied else (source,):
            owner, _, key = name.rpartition(".")
            module = model.get_submodule(owner)
            if isinstance(tensor, IntegerWeight):
                integers[owner] = tensor
            else:
                # Contiguous: a slice of a fused tensor would keep the whole of it alive.
                values = tensor.to(dtype).contiguous()
                setattr(module, key, nn.Parameter(values, requires_grad=False))
            waiting[owner].remove(key)
            if waiting[owner]:
                continue
            del waiting[owner]
            stored = integers.pop(owner, None)
            scheme = schemes.get(owner)
            if stored is None:
                yield _finish(model, owner, module, scheme, dtype, hqq)
            else:
                yield _import(model, owner, stored, imports, scheme, dtype, hqq)
    if waiting:
        raise AssertionError(f"no weights came for {sorted(waiting)}")


def _import(
    model: nn.Module,
    name: str,
    stored: IntegerWeight,
    rules: ImportRules,
    scheme: Scheme | None,
    dtype: torch.dtype,
    hqq: bool,
) -> WeightRecord:
    """Keep the checkpoint's integers, or expand them and go on as with any other weight."""
    module = model.get_submodule(name)
    obstacle = rules.obstacle(module, stored, scheme)
    if obstacle is None:
        return import_module(model, name, stored, dtype)
    module.weight = nn.Parameter(stored.dequantize().to(dtype), requires_grad=False)
    record = _finish(model, name, module, scheme, dtype, hqq)
    return evolve(record, stored=stored.stored, obstacle=obstacle)


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
            error = relative_error(original, lambda rows: module.weight[rows].dequantize())
            scale_bytes = 4 if scheme.group == module.in_features else 2
            stored = _packed_bytes(original, scheme, scale_bytes)
            stored += 0 if module.bias is None else module.bias.numel() * dtype.itemsize
    elif isinstance(module, nn.Embedding):
        kind = "embedding"
        if scheme is not None:
            original = module.weight.detach()
            quantized = quantize_embedding(original, scheme, dtype)
            error = relative_error(original, quantized.rows)
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
