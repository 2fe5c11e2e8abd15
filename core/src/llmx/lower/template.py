"""The few layers that are lowered for all."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from llmx.lower.payload import IrregularError
from llmx.model.kv_cache import AttentionCore

TEMPLATE_LAYERS = 3


def template_of(model: nn.Module) -> nn.Module:
    """The model with its first three layers only, sharing their weights.

    Raises:
        IrregularError: the layers differ in structure.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise IrregularError("the model has no list of layers")
    structures = [_structure(layer) for layer in layers]
    for index, structure in enumerate(structures):
        if structure != structures[0]:
            raise IrregularError(f"layer {index} differs in structure from layer 0")
    template = copy.copy(model)
    template._modules = dict(model._modules)
    template.layers = nn.ModuleList(layers[:TEMPLATE_LAYERS])
    return template


def _structure(layer: nn.Module) -> list[tuple[Any, ...]]:
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    # Windows show in no shape where caches are as long as the context.
    cores = [(each.kind,) for each in layer.modules() if isinstance(each, AttentionCore)]
    return cores + [
        (name, tuple(each.shape), each.dtype, type(each), getattr(each, "block_size", None))
        for name, each in tensors
    ]
