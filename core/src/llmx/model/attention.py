"""Grouped-query attention with rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.attention_sinks import SinkAttention
from llmx.model.cache_layout import layout_of
from llmx.model.ops import AttentionShape, BuildOptions, ModelOps
from llmx.model.params import DecoderParams
from llmx.model.rope import apply_rope


def in_groups(x: Tensor, groups: int) -> Tensor:
    """Heads [1, S, groups * N, head_dim] as a batch, [groups, S, N, head_dim]."""
    if groups == 1:
        return x
    _, _, count, head_dim = x.shape
    return torch.permute_copy(x.view(-1, groups, count // groups, head_dim), (1, 0, 2, 3))


def together(x: Tensor) -> Tensor:
    """Groups of heads [groups, S, N, head_dim] beside each other, [1, S, groups * N * head_dim]."""
    groups, _, count, head_dim = x.shape
    if groups > 1:
        x = torch.permute_copy(x, (1, 0, 2, 3))
    return x.reshape(1, -1, groups * count * head_dim)


class Attention(nn.Module):
    """Projections, optional q/k norms (per head, before rope), and the backend's attention core."""

    def __init__(
        self, layer: int, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> None:
        super().__init__()
        self.head_dim = params.head_dim
        width, kv_width = params.n_heads * self.head_dim, params.n_kv_heads * self.head_dim
        self.q_proj = nn.Linear(params.dim, width, bias=params.qkv_bias)
        self.k_proj = nn.Linear(params.dim, kv_width, bias=params.qkv_bias)
        self.v_proj = nn.Linear(params.dim, kv_width, bias=params.qkv_bias)
        self.o_proj = nn.Linear(width, params.dim, bias=params.output_bias)
        if params.qk_norm:
            self.q_norm = ops.norm(self.head_dim, params.norm_eps)
            self.k_norm = ops.norm(self.head_dim, params.norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()
        self.rotate_half = ops.rotate_half(self.head_dim, params.rotary_dim)
        apart = ops.kv_heads_apart and build.sinks is None
        self.groups = params.n_kv_heads if apart else 1
        shape = AttentionShape(
            groups=self.groups,
            n_heads=params.n_heads // self.groups,
            n_kv_heads=params.n_kv_heads // self.groups,
            head_dim=params.head_dim,
            layout=layout_of(layer, params, build),
            dtype=build.dtype,
        )
        self.core = ops.attention(shape)
        if build.sinks is not None:
            self.core = SinkAttention(self.core, shape, self.rotate_half)

    def heads(self, x: Tensor) -> Tensor:
        """[1, S, heads * head_dim] to [1, S, heads, head_dim]."""
        return x.view(1, -1, x.shape[-1] // self.head_dim, self.head_dim)

    def queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotated queries [1, S, n_heads, head_dim] of x [1, S, dim]."""
        return apply_rope(self.q_norm(self.heads(self.q_proj(x))), cos, sin, self.rotate_half)

    def keys(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotated keys [1, S, n_kv_heads, head_dim] of x [1, S, dim]."""
        return apply_rope(self.k_norm(self.heads(self.k_proj(x))), cos, sin, self.rotate_half)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        """x [1, S, dim], cos and sin [1, S, 1, head_dim], and the core's place."""
        q, k = self.queries(x, cos, sin), self.keys(x, cos, sin)
        v = self.heads(self.v_proj(x))
        return self.attend(q, k, v, place)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, place: Any) -> Tensor:
        """All heads' queries, keys and values to what comes of them, [1, S, dim]."""
        attended = self.core(*(in_groups(each, self.groups) for each in (q, k, v)), place)
        out: Tensor = self.o_proj(together(attended))
        return out
