"""llmx's decoder with a mixture of experts (https://arxiv.org/abs/1701.06538) in each layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.decoder import Decoder
from llmx.model.feed_forward import FeedForward
from llmx.model.ops import BuildOptions, ModelOps


class Experts(nn.Module):
    """The experts' outputs by the router's weights; ``n_chosen`` of these are not 0.

    A program is the same for all tokens, so that every expert is computed for each of them.
    """

    def __init__(self, params: Any) -> None:
        super().__init__()
        self.n_chosen = params.n_chosen
        self.router = nn.Linear(params.dim, params.n_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(params) for _ in range(params.n_experts))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(self.n_chosen, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        scale = torch.zeros_like(x[..., :1]).expand(-1, -1, len(self.experts))
        scale = scale.scatter(-1, chosen, weights)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            out = out + expert(x) * scale[..., index : index + 1]
        return out


class Mixture(Decoder):
    """A decoder whose layers have experts instead of one feed-forward block."""

    def make_layer(self, index: int, params: Any, ops: ModelOps, build: BuildOptions) -> nn.Module:
        layer: Any = super().make_layer(index, params, ops, build)
        layer.feed_forward = Experts(params)
        return layer  # type: ignore[no-any-return]
