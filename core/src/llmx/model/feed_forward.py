"""Gated feed-forward block (SwiGLU, Shazeer, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from llmx.model.params import DecoderParams


class FeedForward(nn.Module):
    """``down(rotation(silu(gate(x)) * up(x)))`` on [1, S, dim]."""

    def __init__(self, params: DecoderParams, rotation: nn.Module | None = None) -> None:
        super().__init__()
        self.rotation = rotation or nn.Identity()
        bias = params.mlp_bias
        self.gate_proj = nn.Linear(params.dim, params.hidden_dim, bias=bias)
        self.up_proj = nn.Linear(params.dim, params.hidden_dim, bias=bias)
        self.down_proj = nn.Linear(params.hidden_dim, params.dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.silu(self.gate_proj(x)) * self.up_proj(x)
        out: Tensor = self.down_proj(self.rotation(hidden))
        return out
