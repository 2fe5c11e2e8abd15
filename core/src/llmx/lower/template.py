"""The few layers that are lowered for all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen
from torch import nn

from llmx.model.kv_cache import cores_of
from llmx.model.shallow import shallow_copy


class IrregularError(Exception):
    """The layers, or their lowered forms, do not repeat, so they cannot be copied; says where."""


@frozen
class Template:
    """A model's first layers, which all its further ones repeat.

    Attributes:
        model: has these layers only and shares their weights.
        period: after how many layers their kinds come again; 1 if all are of one kind.
        layers: how many it has: the first, up to ``period`` of them, and two periods more.
    """

    model: nn.Module
    period: int
    layers: int


def template_of(model: nn.Module) -> Template | None:
    """The shortest template, or ``None`` if it would be the whole model.

    Layers of one kind have parameters, buffers and attention of the same shapes, and an equal
    ``kind`` if they have that attribute.

    Raises:
        IrregularError: the kinds of layers follow no pattern.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise IrregularError("the model has no list of layers")
    period = _period([_structure(layer) for layer in layers])
    count = len(layers)
    # As many layers are left over before a whole number of periods as at the end of the model.
    needed = 2 * period + (count - 1) % period + 1
    if needed >= count:
        return None
    template = shallow_copy(model)
    template.layers = nn.ModuleList(layers[:needed])
    return Template(template, period, needed)


def _period(structures: Sequence[object]) -> int:
    count = len(structures)
    for period in range(1, max(2, count // 2 + 1)):
        if all(structures[at] == structures[at - period] for at in range(period, count)):
            return period
    other = next(at for at in range(count) if structures[at] != structures[0])
    raise IrregularError(f"layer {other} differs in structure from layer 0, in no pattern")


def _structure(layer: nn.Module) -> list[tuple[Any, ...]]:
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    # Windows show in no shape where caches are as long as the context.
    cores = [(each.kind,) for each in cores_of(layer)]
    # Nor do settings; layers that have any say so.
    return [("kind", getattr(layer, "kind", None)), *cores] + [
        (name, tuple(each.shape), each.dtype, type(each), getattr(each, "block_size", None))
        for name, each in tensors
    ]
