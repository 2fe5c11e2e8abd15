"""A linear layer with a LoRA beside it (Hu et al., https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn


@frozen(eq=False)
class LowRank:
    """What is added to a weight [out, in]: ``up @ down`` with up [out, rank], down [rank, in].

    The adapter's scale is in ``up``.
    """

    down: Tensor
    up: Tensor


class AdaptedLinear(nn.Module):
    """``base(x) + up(down(x))``: the base, in whatever form it has, stays as it is."""

    def __init__(self, base: nn.Module, added: LowRank, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = (_linear(each.to(dtype)) for each in (added.down, added.up))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def _linear(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return linear
