"""A module that shares its parts with another."""

from __future__ import annotations

import copy

from torch import nn


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module with the same parts, which can be given others."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    copied._parameters = dict(module._parameters)
    return copied
