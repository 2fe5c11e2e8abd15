"""Rotation by a Hadamard matrix, which spreads outliers over all channels before rounding.

SpinQuant, https://arxiv.org/abs/2405.16406: what it rotates once and for all is in the weights;
the input of a feed-forward block's last layer is rotated while running (R4).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmx.native import register_operators


class Hadamard(nn.Module):
    """x [..., n] times the orthonormal Hadamard matrix of n rows, n a power of 2 (or 28 times it).

    ExecuTorch's operator does it in n log n steps.
    """

    def __init__(self) -> None:
        super().__init__()
        register_operators()

    def forward(self, x: Tensor) -> Tensor:
        rotated: Tensor = torch.ops.llama.fast_hadamard_transform(x)
        return rotated
