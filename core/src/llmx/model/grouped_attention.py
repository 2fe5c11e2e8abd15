"""Attention for devices that compute in integers: nothing in it is infinite or repeated."""

from __future__ import annotations

import math

import torch
from attrs import frozen
from torch import Tensor

from llmx.model.kv_cache import Cached
from llmx.model.rope import RotaryEmbedding

HIDDEN = -100.0
"""Added to the score of what a token may not see: an infinite one would leave no steps for the rest
of a range that is cut into 256 or 65536."""


@frozen(eq=False)
class Written:
    """Slots [S] of the call's tokens, and what is added to scores, [S, all slots]."""

    slots: Tensor
    bias: Tensor


class GroupedAttention(Cached):
    """KV cache and attention in matrix products, one per key/value head.

    The queries of a group lie side by side, so that keys and values are read where they are.
    """

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Written:
        placement = self.layout.place(positions)
        bias = torch.where(placement.visible, 0.0, HIDDEN).to(self.k_cache.dtype)
        return Written(placement.slots, bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: Written) -> Tensor:
        self.k_cache.index_copy_(1, place.slots, k)
        self.v_cache.index_copy_(1, place.slots, v)
        _, length, n_heads, head_dim = q.shape
        n_kv_heads = k.shape[2]
        group = n_heads // n_kv_heads
        queries = q.transpose(1, 2).reshape(1, n_kv_heads, group * length, head_dim)
        keys = self.k_cache.permute(0, 2, 3, 1)
        values = self.v_cache.transpose(1, 2)
        scores = torch.matmul(queries * (1 / math.sqrt(head_dim)), keys)
        weights = torch.softmax(scores + place.bias.repeat(group, 1), dim=-1)
        out = torch.matmul(weights, values).reshape(1, n_heads, length, head_dim)
        return out.transpose(1, 2)
