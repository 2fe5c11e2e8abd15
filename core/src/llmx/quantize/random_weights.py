"""Weights of an untrained model, to try a pipeline out without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def random_weights(
    shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """One fp32 tensor per name: norms 1, biases 0, everything else normal with deviation 0.02."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if len(shape) > 1:
            yield name, torch.empty(shape).normal_(std=0.02, generator=generator)
        else:
            yield name, torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
