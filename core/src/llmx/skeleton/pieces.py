"""A module's weights as the bytes that a program holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

DelegateData = Callable[[nn.Module], Mapping[str, tuple[str, bytes]] | None]
"""A backend's ``delegate_data`` hook: what it is to (key, bytes)."""


@frozen
class Piece:
    """Bytes that follow from one module's weights.

    ``key`` is the name under which a delegate's payload refers to them; ``None`` for a tensor that
    the program itself holds.
    """

    module: str
    what: str
    key: str | None
    content: bytes | memoryview = field(repr=False)

    @property
    def name(self) -> str:
        """Unique within a model."""
        return f"{self.module}{':' if self.key is None else '|'}{self.what}"


def pieces_of(name: str, module: nn.Module, delegate_data: DelegateData) -> Iterator[Piece]:
    """Everything that a program may hold of ``module``: its tensors, and the backend's data."""
    for inner, each in module.named_modules():
        prefix = f"{inner}." if inner else ""
        tensors = [*each.named_parameters(recurse=False), *each.named_buffers(recurse=False)]
        for what, tensor in tensors:
            for part, plain in plain_tensors(what, tensor):
                yield Piece(name, prefix + part, None, raw_bytes(plain))
        if tensors:
            for what, (key, content) in (delegate_data(each) or {}).items():
                yield Piece(name, prefix + what, key, content)


def form_of(module: nn.Module) -> str:
    """What kind of weights a module has, whatever their values: classes, types and shapes."""
    parts: list[object] = []
    for inner, each in module.named_modules():
        plain = {
            key: value
            for key, value in vars(each).items()
            if isinstance(value, bool | int | float | str | torch.dtype) and key != "training"
        }
        parts.append(
            (inner, type(each).__qualname__, sorted(plain.items(), key=lambda item: item[0]))
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        flatten = getattr(tensor, "__tensor_flatten__", None)
        context = None if flatten is None else flatten()[1]
        parts.append((name, type(tensor).__qualname__, tensor.dtype, tuple(tensor.shape), context))
    return repr(parts)


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor in row-major order, without a copy where it is stored so."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return flat.numpy().data


def plain_tensors(name: str, tensor: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a quantized one is made of, or the tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield name, tensor
        return
    for part in flatten()[0]:
        yield from plain_tensors(f"{name}.{part}", getattr(tensor, part))
