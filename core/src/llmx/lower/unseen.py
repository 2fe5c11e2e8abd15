"""Weights that a lowered program has without saying so cannot be exchanged for another layer's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import nn
from torch.export import ExportedProgram

from llmx.lower.eager_tensor import LAYER, without_parts
from llmx.lower.payload import LayerData, keys_in_order
from llmx.lower.template import IrregularError, Template


def require_all_seen(
    program: ExportedProgram,
    template: Template,
    layers: Sequence[nn.Module],
    data: LayerData,
    targets: Mapping[str, str],
) -> None:
    """Every parameter of the template is an input, or a datum that payloads refer to by key.

    Buffers that are not inputs are constants in payloads: all layers must have the same.

    Args:
        layers: all layers of the eager model.
        targets: what the program's inputs are, by their names.

    Raises:
        IrregularError: they are not.
    """
    inputs = {without_parts(each) for each in targets.values() if LAYER.fullmatch(each)}
    keys = _keys(program)
    for place, at in enumerate(template.chosen):
        for path, module in layers[at].named_modules():
            apart = {
                name
                for name, _ in module.named_parameters(recurse=False)
                if _joined("layers", str(place), path, name) not in inputs
            }
            if apart and not any(
                key in keys for (owner, _), (key, _) in data.layers[at].items() if owner == path
            ):
                raise IrregularError("the backend does not say how its payloads refer to weights")
    for layer, kind in enumerate(template.kinds):
        place = next(at for at, each in enumerate(template.chosen) if template.kinds[each] == kind)
        hidden = {
            name: buffer
            for name, buffer in layers[template.chosen[place]].named_buffers()
            if _joined("layers", str(place), name) not in inputs
        }
        if not all(_equal(each, layers[layer].get_buffer(name)) for name, each in hidden.items()):
            raise IrregularError(f"layer {layer} has other constants than the template")


def _keys(program: ExportedProgram) -> Collection[str]:
    return {
        key
        for _, module in program.graph_module.named_children()
        if isinstance(module, LoweredBackendModule)
        for _, key in keys_in_order(module)
    }


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
