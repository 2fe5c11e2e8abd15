"""KV caches of int8, quantized per token and head: ``value = (stored - zero_point) * scale``."""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from attrs import frozen
from torch import Tensor

from llmx.model.cache_layout import Placement
from llmx.model.kv_cache import AttentionCore, Consecutive, FusedCore, Scattered, attend
from llmx.model.ops import AttentionShape
from llmx.model.rope import RotaryEmbedding

LOWEST, HIGHEST = -128, 127


@frozen(eq=False)
class Quantized:
    """``stored`` [G, S, H, D] int8; ``scale`` fp32 and ``zero_point`` int8, both [G, S, H, 1]."""

    stored: Tensor
    scale: Tensor
    zero_point: Tensor


def quantize_per_token(x: Tensor) -> Quantized:
    """Round x [G, S, H, D] to int8, asymmetrically, by the operators that the runtime has."""
    ops = torch.ops.quantized_decomposed
    x = x.float()
    scale, zero_point = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    stored = ops.quantize_per_token(x, scale, zero_point, LOWEST, HIGHEST, torch.int8)
    return Quantized(stored, scale.to(torch.float32), zero_point.to(torch.int8))


class _Int8Cached(AttentionCore):
    k_cache: Tensor
    k_scales: Tensor
    k_zero_points: Tensor
    v_cache: Tensor
    v_scales: Tensor
    v_zero_points: Tensor

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape.layout, shape.groups)
        import executorch.kernels.quantized  # noqa: F401  (forms of the operators for programs)

        self.dtype = shape.dtype
        rows = (shape.groups, shape.layout.slots, shape.n_kv_heads)
        for name in ("k", "v"):
            for part, width, dtype in (
                ("cache", shape.head_dim, torch.int8),
                ("scales", 1, torch.float32),
                ("zero_points", 1, torch.int8),
            ):
                empty = torch.zeros((*rows, width), dtype=dtype, device="cpu")
                self.register_buffer(f"{name}_{part}", empty)


class Int8CachedAttention(_Int8Cached):
    """An int8 cache in plain PyTorch operators, for any backend; it is restored in every call."""

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Placement:
        return self.layout.place(positions)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Placement) -> Tensor:
        for new, parts in (
            (quantize_per_token(k), (self.k_cache, self.k_scales, self.k_zero_points)),
            (quantize_per_token(v), (self.v_cache, self.v_scales, self.v_zero_points)),
        ):
            for cache, value in zip(parts, (new.stored, new.scale, new.zero_point), strict=True):
                cache.index_copy_(1, place.slots, value)
        keys = self._restored(self.k_cache, self.k_scales, self.k_zero_points)
        values = self._restored(self.v_cache, self.v_scales, self.v_zero_points)
        return attend(q, keys, values, place.visible)

    def _restored(self, stored: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return ((stored.float() - zero_point.float()) * scale).to(self.dtype)


class FusedInt8CachedAttention(FusedCore, _Int8Cached):
    """An int8 cache and attention on it by ExecuTorch's custom CPU operators.

    Queries are rounded to int8 like keys; the sums are taken over products of int8.
    """

    bias_dtype = torch.float32

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  (registers ops)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Consecutive | Scattered) -> Tensor:
        for new, parts in (
            (quantize_per_token(k), (self.k_cache, self.k_scales, self.k_zero_points)),
            (quantize_per_token(v), (self.v_cache, self.v_scales, self.v_zero_points)),
        ):
            for cache, value in zip(parts, (new.stored, new.scale, new.zero_point), strict=True):
                place.write(value, cache)
        query = quantize_per_token(q)
        out: Tensor = torch.ops.llama.custom_quantized_sdpa(
            query.stored,
            self.k_cache,
            self.v_cache,
            *place.masking,
            None,
            query.zero_point,
            query.scale,
            self.k_zero_points,
            self.k_scales,
            self.v_zero_points,
            self.v_scales,
        )
        return out.to(self.dtype)
