"""The model of Gemma 3 (https://arxiv.org/abs/2503.19786), as a variation of llmx's decoder."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmx.model.attention import Attention
from llmx.model.decoder import Decoder
from llmx.model.feed_forward import FeedForward
from llmx.model.ops import BuildOptions, ModelOps
from llmx.model.params import DecoderParams


class Norm(nn.Module):
    """``x / rms(x) * (1 + weight) * factor`` over the last dimension, computed in fp32."""

    def __init__(self, dim: int, eps: float, factor: float = 1.0) -> None:
        super().__init__()
        self.eps, self.factor = eps, factor
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        out: Tensor = (wide * scale * (1 + self.weight.float())).to(x.dtype)
        return out if self.factor == 1.0 else out * self.factor


class GatedGelu(FeedForward):
    """``down(gelu(gate(x)) * up(x))`` with the tanh form of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.gelu(self.gate_proj(x), approximate="tanh")
        out: Tensor = self.down_proj(gate * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and feed-forward, each with a norm before and after it.

    ``kind`` tells local layers from global ones, whose angles are others.
    """

    def __init__(self, index: int, params: Any, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__()
        self.kind = params.layer_window(index) is not None
        dim, eps = params.dim, params.norm_eps
        self.attention_norm, self.attention_post_norm = Norm(dim, eps), Norm(dim, eps)
        self.attention = Attention(index, params, ops, build)
        # Cores divide scores by sqrt(head_dim).
        factor = (params.query_scale / params.head_dim) ** -0.5
        self.attention.q_norm = Norm(params.head_dim, eps, factor)
        self.attention.k_norm = Norm(params.head_dim, eps)
        self.feed_forward_norm, self.feed_forward_post_norm = Norm(dim, eps), Norm(dim, eps)
        self.feed_forward = GatedGelu(params)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        attended = self.attention(self.attention_norm(x), cos, sin, place)
        x = x + self.attention_post_norm(attended)
        out: Tensor = x + self.feed_forward_post_norm(self.feed_forward(self.feed_forward_norm(x)))
        return out


class Gemma3(Decoder):
    """A decoder with these layers, scaled rows of the table, and angles of two kinds."""

    def __init__(self, params: Any, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__(params, ops, build)
        local = attrs.evolve(params, rope_theta=params.local_rope_theta)
        self.local_rope = ops.rotary(local, build)
        self.scale = params.dim**0.5

    def make_layer(
        self, index: int, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> nn.Module:
        return Layer(index, params, ops, build)

    def make_norm(self, params: DecoderParams, ops: ModelOps) -> nn.Module:
        return Norm(params.dim, params.norm_eps)

    def embed(self, rows: Tensor) -> Tensor:
        out: Tensor = self.embedding(rows) * self.scale
        return out

    def angles(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        layers: Any = self.layers
        far, near = self.rope(positions), self.local_rope(positions)
        return [near if layer.kind else far for layer in layers]
