"""Grouped-query attention with rotary positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from llmx.model.attention_sinks import SinkAttention
from llmx.model.cache_layout import layout_of
from llmx.model.ops import AttentionShape, BuildOptions, ModelOps
from llmx.model.params import DecoderParams
from llmx.model.rope import apply_rope


class Attention(nn.Module):
    """Projections, optional q/k norms (per head, before rope), and the backend's attention core."""

    def __init__(
        self, layer: int, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> None:
        super().__init__()
        self.head_dim = params.head_dim
        width, kv_width = params.n_heads * self.head_dim, params.n_kv_heads * self.head_dim
        self.width = width
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
        shape = AttentionShape(
            n_heads=params.n_heads,
            n_kv_heads=params.n_kv_heads,
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
        attended = self.core(q, k, v, place)
        out: Tensor = self.o_proj(attended.reshape(1, -1, self.width))
        return out
