"""Attention cores: where keys and values are kept, and how queries attend to them.

Each takes q [1, S, n_heads, head_dim], k and v [1, S, n_kv_heads, head_dim], positions [S]
(int64, consecutive) and ``start``, the first of them as an int, and returns [1, S, n_heads,
head_dim]. Query head h reads key/value head ``h // (n_heads / n_kv_heads)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmx.model.ops import AttentionShape


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Masked attention over [1, S, H, D] queries and [1, T, Hkv, D] keys; mask [S, T] of bool."""
    repeats = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(repeats, dim=2)
    v = v.repeat_interleave(repeats, dim=2)
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


class UncachedAttention(nn.Module):
    """Causal attention within one call; nothing is kept between calls."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, start: int) -> Tensor:
        return _attend(q, k, v, positions.unsqueeze(1) >= positions.unsqueeze(0))


class _Cached(nn.Module):
    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__()
        size = (1, shape.max_context_length, shape.n_kv_heads, shape.head_dim)
        self.register_buffer("k_cache", torch.zeros(size, dtype=shape.dtype, device="cpu"))
        self.register_buffer("v_cache", torch.zeros(size, dtype=shape.dtype, device="cpu"))


class CachedAttention(_Cached):
    """KV cache and attention in plain PyTorch operators, for any backend."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, start: int) -> Tensor:
        self.k_cache.index_copy_(1, positions, k)
        self.v_cache.index_copy_(1, positions, v)
        slots = torch.arange(self.k_cache.shape[1], device=positions.device)
        return _attend(q, self.k_cache, self.v_cache, positions.unsqueeze(1) >= slots)


class FusedCachedAttention(_Cached):
    """KV cache and attention by ExecuTorch's custom CPU operators (flash attention)."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  (registers ops)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, start: int) -> Tensor:
        torch.ops.llama.update_cache(k, self.k_cache, start)
        torch.ops.llama.update_cache(v, self.v_cache, start)
        out: Tensor = torch.ops.llama.custom_sdpa(
            q, self.k_cache, self.v_cache, start, None, 0.0, True
        )
        return out
