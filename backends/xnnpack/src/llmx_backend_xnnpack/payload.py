"""How XNNPACK's payloads refer to weights: by the SHA-256 of the bytes that the kernels read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmx.quantize.codes import pack

BITS: Mapping[Any, int] = {getattr(torch, f"int{bits}"): bits for bits in (4, 8)}


def named_data(module: nn.Module) -> Mapping[str, tuple[str, bytes]]:
    """Key and bytes of each datum that a payload may hold of ``module``, by what it is."""
    return {what: (key, content) for what, key, content in _entries(module)}


def _entries(module: nn.Module) -> Iterator[tuple[str, str, bytes]]:
    for name, parameter in module.named_parameters(recurse=False):
        codes = getattr(parameter, "qdata", None)
        if codes is None:
            content = _raw(parameter.detach())
            yield name, hashlib.sha256(content).hexdigest(), content
            continue
        quantized: Any = parameter  # torchao's tensor type
        packed = _raw(pack(codes, BITS[quantized.target_dtype], "first low"))
        yield name, hashlib.sha256(packed).hexdigest(), packed
        scales = _raw(quantized.scale)
        yield f"{name} scale", f"scale_{hashlib.sha256(scales).hexdigest()}", scales


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
