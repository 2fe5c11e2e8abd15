"""The eager model's tensors under the names that ``torch.export`` gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

LAYER = re.compile(r"layers\.(\d+)\.(.+)")
# What a tensor subclass, such as a quantized weight, consists of.
INNER = re.compile(r"(?:(.+)\.)?parametrizations\.(\w+)\.original(\d+)")


def layer_of(target: str) -> int | None:
    """Number of the layer that ``layers.N.…`` names; ``None`` for what is in no layer."""
    match = LAYER.fullmatch(target)
    return int(match[1]) if match else None


def in_layer(target: str, layer: int) -> str:
    """What is called like ``target`` in another layer."""
    return LAYER.sub(rf"layers.{layer}.\2", target)


def without_parts(target: str) -> str:
    """The name of the tensor that ``target`` is, or that it is a part of."""
    match = LAYER.fullmatch(target)
    inner = None if match is None else INNER.fullmatch(match[2])
    if match is None or inner is None:
        return target
    path, weight, _ = inner.groups()
    return f"layers.{match[1]}.{path}.{weight}" if path else f"layers.{match[1]}.{weight}"


def tensor_of(layers: Sequence[nn.Module], target: str) -> Tensor | None:
    """The tensor that ``layers.N.…`` names; ``None`` if there is none."""
    match = LAYER.fullmatch(target)
    assert match is not None
    layer, name = layers[int(match[1])], match[2]
    inner = INNER.fullmatch(name)
    if inner is None:
        found = _attribute(layer, name)
    else:
        path, weight, part = inner.groups()
        found = _part(_attribute(layer, f"{path}.{weight}" if path else weight), int(part))
    return found if isinstance(found, Tensor) else None


def _attribute(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _part(whole: Any, part: int) -> Any:
    if not hasattr(whole, "__tensor_flatten__"):
        return None
    names, _ = whole.__tensor_flatten__()
    return getattr(whole, names[part], None) if part < len(names) else None
