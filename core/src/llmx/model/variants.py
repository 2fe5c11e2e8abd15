"""A model with adapters beside some of its layers, and the model itself left as it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from llmx.model.adapted import AdaptedLinear, LowRank
from llmx.model.shallow import shallow_copy


def with_adapters(
    model: nn.Module, added: Mapping[str, LowRank], dtype: torch.dtype, prefix: str = ""
) -> nn.Module:
    """``model`` with each linear layer that ``added`` names computing with its adapter too.

    Weights and caches are those of the given model. ``prefix`` is its own name with a dot.
    """
    copied = shallow_copy(model)
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if path in added:
            copied._modules[name] = AdaptedLinear(child, added[path], dtype)
        elif any(each.startswith(f"{path}.") for each in added):
            copied._modules[name] = with_adapters(child, added, dtype, f"{path}.")
    return copied
