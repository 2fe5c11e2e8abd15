"""Attention whose calls may have a fixed number of tokens beyond one.

coremltools turns ``index_put`` along a cache into a slice that is written, for one token only.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from llmx.model.kv_cache import Cached, attend
from llmx.model.rope import RotaryEmbedding


@frozen(eq=False)
class Piece:
    """Where a call's S tokens go, and what they see.

    Attributes:
        slots: [S] int64.
        visible: [S, all slots] bool.
        rows: [all slots, S], 1 where a token belongs to a slot; in the cache's type.
        written: [all slots, 1, 1] bool, whether a slot gets a token.
    """

    slots: Tensor
    visible: Tensor
    rows: Tensor
    written: Tensor


class PieceAttention(Cached):
    """As ``CachedAttention``; pieces of a text are put into the cache by a matrix product.

    Scattering rows would leave the Neural Engine. Products with zeros and ones are exact.
    """

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Piece:
        placement = self.layout.place(positions)
        slots = torch.arange(self.layout.slots, device=positions.device).unsqueeze(1)
        belongs = slots == placement.slots
        rows = belongs.to(self.k_cache.dtype)
        written = rows.sum(1).view(-1, 1, 1) > 0
        return Piece(placement.slots, placement.visible, rows, written)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Piece) -> Tensor:
        if k.shape[1] == 1:
            self.k_cache.index_copy_(1, place.slots, k)
            self.v_cache.index_copy_(1, place.slots, v)
            return attend(q, self.k_cache, self.v_cache, place.visible)
        keys, values = _with_rows(self.k_cache, k, place), _with_rows(self.v_cache, v, place)
        self.k_cache.copy_(keys)
        self.v_cache.copy_(values)
        return attend(q, keys, values, place.visible)


def _with_rows(cache: Tensor, new: Tensor, place: Piece) -> Tensor:
    """The cache [1, slots, H, D] with new rows [1, S, H, D] in their slots."""
    _, length, heads, width = new.shape
    put = torch.matmul(place.rows, new.reshape(length, heads * width))
    return torch.where(place.written, put.view(1, -1, heads, width), cache)
