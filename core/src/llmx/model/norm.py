"""RMS normalisation (Zhang & Sennrich, https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last dimension, computed in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(self._mean_square(wide))
        return self.weight * (wide * scale).to(x.dtype)

    def _mean_square(self, x: Tensor) -> Tensor:
        """Mean of squares plus ``eps``: [..., dim] to [..., 1]."""
        return x.square().mean(-1, keepdim=True) + self.eps


class ProductRMSNorm(RMSNorm):
    """The same with the mean as a matrix product, for backends that cannot take it otherwise."""

    average: Tensor
    offset: Tensor

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps)
        # Real values even while the model's parameters are built on the meta device.
        with torch.device("cpu"):
            self.register_buffer("average", torch.full((1, dim), 1 / dim), persistent=False)
            self.register_buffer("offset", torch.full((1,), eps), persistent=False)

    def _mean_square(self, x: Tensor) -> Tensor:
        return functional.linear(x.square(), self.average, self.offset)
