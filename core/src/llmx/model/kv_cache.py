"""Attention cores: where keys and values are kept, and how queries attend to them.

Each takes q [G, S, n_heads, head_dim], k and v [G, S, n_kv_heads, head_dim] and a *place*, and
returns [G, S, n_heads, head_dim], for G groups of heads. Query head h reads key/value head ``h //
(n_heads / n_kv_heads)`` of its group. The place is what layers of the same ``kind`` share in one
call: made once by the ``place`` of any of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn import functional

from llmx.model.cache_layout import CacheLayout, Placement, WholeContext
from llmx.model.ops import AttentionShape
from llmx.model.rope import RotaryEmbedding
from llmx.native import register_operators


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Masked attention over [G, S, H, D] queries and [G, T, Hkv, D] keys; mask [S, T] of bool."""
    repeats = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(repeats, dim=2)
    v = v.repeat_interleave(repeats, dim=2)
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


class Core(nn.Module):
    """A part that keeps something between calls. Buffers of its own are caches.

    Attributes:
        kind: equal for cores that can share a place.
    """

    def __init__(self, *settings: Hashable) -> None:
        super().__init__()
        # Now: torch.export traces with proxies, whose type is another.
        self.kind: Hashable = (type(self), *settings)

    @abstractmethod
    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Any:
        """For a call's consecutive positions [S] int64, of which ``start`` is the first."""


class AttentionCore(Core):
    """What all attention cores have.

    Attributes:
        layout: which tokens are kept.
        groups: of heads, a batch.
    """

    def __init__(self, layout: CacheLayout, groups: int = 1) -> None:
        super().__init__(layout, groups)
        self.layout = layout
        self.groups = groups


def cores_of(model: nn.Module) -> Iterator[Core]:
    """Every part that keeps something between calls."""
    return (each for each in model.modules() if isinstance(each, Core))


def cache_bytes(model: nn.Module) -> int:
    """Bytes of all caches of a model."""
    return sum(cache.nbytes for core in cores_of(model) for cache in core.buffers(recurse=False))


class UncachedAttention(AttentionCore):
    """Attention within one call; nothing is kept between calls."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape.layout, shape.groups)

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Tensor:
        return self.layout.visible(positions.unsqueeze(1), positions)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Tensor) -> Tensor:
        return attend(q, k, v, place)


class Cached(AttentionCore):
    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape.layout, shape.groups)
        size = (shape.groups, shape.layout.slots, shape.n_kv_heads, shape.head_dim)
        self.register_buffer("k_cache", torch.zeros(size, dtype=shape.dtype, device="cpu"))
        self.register_buffer("v_cache", torch.zeros(size, dtype=shape.dtype, device="cpu"))


class CachedAttention(Cached):
    """KV cache and attention in plain PyTorch operators, for any backend."""

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Placement:
        return self.layout.place(positions)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Placement) -> Tensor:
        self.k_cache.index_copy_(1, place.slots, k)
        self.v_cache.index_copy_(1, place.slots, v)
        return attend(q, self.k_cache, self.v_cache, place.visible)


@frozen(eq=False)
class Consecutive:
    """Tokens in slots of their own from ``start`` on, each seeing all before it.

    ``first_query`` is the position of the first token that attends.
    """

    start: int
    first_query: int

    def of_last(self, tokens: int) -> Consecutive:
        """The place where only the last of a call's ``tokens`` attends."""
        return Consecutive(self.start, self.start + tokens - 1)

    def write(self, value: Tensor, cache: Tensor) -> None:
        torch.ops.llama.update_cache(value, cache, self.start)

    @property
    def masking(self) -> tuple[int, Tensor | None, float, bool]:
        """start_pos, attn_mask, dropout and is_causal of the custom attention operators."""
        return self.first_query, None, 0.0, True


@frozen(eq=False)
class Scattered:
    """Tokens in ``slots`` [G, N]; ``bias`` [queries, all slots] is 0 or minus infinity."""

    slots: Tensor
    bias: Tensor

    def of_last(self, tokens: int) -> Scattered:
        """As of ``Consecutive``."""
        return Scattered(self.slots, self.bias[-1:])

    def write(self, value: Tensor, cache: Tensor) -> None:
        torch.ops.llama.update_cache_with_indices(value, cache, 0, self.slots)

    @property
    def masking(self) -> tuple[int, Tensor | None, float, bool]:
        """As of ``Consecutive``."""
        return 0, self.bias, 0.0, False


class FusedCore(AttentionCore):
    """Attention by ExecuTorch's custom CPU operators (flash attention).

    How they are told of a layout is the place. With its ``of_last``, q is the last token's alone.
    """

    bias_dtype: torch.dtype

    def place(
        self, positions: Tensor, start: int, rope: RotaryEmbedding
    ) -> Consecutive | Scattered:
        if isinstance(self.layout, WholeContext):
            return Consecutive(start, start)
        placement = self.layout.place(positions)
        seen = torch.zeros((), dtype=self.bias_dtype, device=positions.device)
        slots = placement.slots.unsqueeze(0)
        if self.groups > 1:
            slots = slots.repeat(self.groups, 1)
        return Scattered(slots, torch.where(placement.visible, seen, float("-inf")))


class FusedCachedAttention(FusedCore, Cached):
    """KV cache and attention by the custom operators."""

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        self.bias_dtype = shape.dtype
        register_operators()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Consecutive | Scattered) -> Tensor:
        place.write(k, self.k_cache)
        place.write(v, self.v_cache)
        out: Tensor = torch.ops.llama.custom_sdpa(q, self.k_cache, self.v_cache, *place.masking)
        return out
