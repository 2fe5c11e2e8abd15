"""Mixtures of experts as linear layers, which can be quantized and lowered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STACKED = {"gate_up_proj": 3, "down_proj": 3}


def is_experts(module: Any) -> bool:
    """Whether it is one of ``transformers``' stacks of experts: gate and up, then down."""
    named = dict(module.named_parameters(recurse=False))
    return (
        named.keys() == STACKED.keys()
        and all(each.ndim == 3 for each in named.values())
        and hasattr(module, "act_fn")
        and not getattr(module, "is_transposed", False)
    )


class Expert(nn.Module):
    """One expert: ``down(act(gate(x)) * up(x))``."""

    def __init__(self, dim: int, hidden_dim: int, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=False)
        self.act_fn = act_fn

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return out


class LinearExperts(nn.ModuleList):
    """Every expert sees every token, and its output counts by the token's weight for it.

    A program is the same for all tokens, so none of the experts can be left out.
    """

    def __init__(self, stacked: Any) -> None:
        count, dim, hidden_dim = stacked.down_proj.shape
        super().__init__(Expert(dim, hidden_dim, stacked.act_fn) for _ in range(count))

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden [N, dim]; the chosen experts and their weights [N, k]."""
        scale = torch.zeros(
            (hidden.shape[0], len(self)), dtype=hidden.dtype, device=hidden.device
        ).scatter(1, top_k_index, top_k_weights.to(hidden.dtype))
        out = torch.zeros_like(hidden)
        for index, expert in enumerate(self):
            out = out + expert(hidden) * scale[:, index : index + 1]
        return out
