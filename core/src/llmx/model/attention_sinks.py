"""Attention sinks: texts without end, by the first tokens and a window of the last ones.

Efficient Streaming Language Models with Attention Sinks, https://arxiv.org/abs/2309.17453.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from llmx.model.cache_layout import SinksAndWindow
from llmx.model.kv_cache import AttentionCore
from llmx.model.ops import AttentionShape
from llmx.model.rope import RotaryEmbedding, apply_rope


@frozen(eq=False)
class SinkPlace:
    """``own`` [S] is where in the store of sinks a token goes, ``inner`` the inner core's place.

    ``cos`` and ``sin`` [1, S, 1, head_dim] turn a sink to where each query sees it; ``ones``
    [1, S, 1, 1] leave it.
    """

    inner: Any
    own: Tensor
    cos: Tensor
    sin: Tensor
    ones: Tensor


class SinkAttention(AttentionCore):
    """Gives another core the sinks as further keys and values, turned for each query.

    Rotary angles of sinks and queries must differ by as much as they do when the text is cut to
    the sinks and the window. The window's own differences stay as they are, so only the few sinks
    are turned.
    """

    k_sinks: Tensor
    v_sinks: Tensor

    def __init__(self, inner: AttentionCore, shape: AttentionShape, rotate_half: nn.Module) -> None:
        layout = shape.layout
        assert isinstance(layout, SinksAndWindow)
        super().__init__(layout)
        self.sinks = layout
        self.inner = inner
        self.kind = (type(self), inner.kind)
        self.rotate_half = rotate_half
        # The last row takes all tokens that are no sinks.
        size = (1, layout.sinks + 1, shape.n_kv_heads, shape.head_dim)
        self.register_buffer("k_sinks", torch.zeros(size, dtype=shape.dtype, device="cpu"))
        self.register_buffer("v_sinks", torch.zeros(size, dtype=shape.dtype, device="cpu"))

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> SinkPlace:
        cos, sin = rope.turn(self.sinks.turns(positions))
        return SinkPlace(
            inner=self.inner.place(positions, start, rope),
            own=positions.clamp(max=self.sinks.sinks),
            cos=cos,
            sin=sin,
            ones=torch.ones_like(cos[..., :1]),
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, place: SinkPlace) -> Tensor:
        self.k_sinks.index_copy_(1, place.own, k)
        self.v_sinks.index_copy_(1, place.own, v)
        count, heads, width = self.sinks.sinks, k.shape[2], k.shape[3]
        # As heads of one token, which broadcasts over the queries.
        keys = self.k_sinks[:, :count].reshape(1, 1, count * heads, width)
        values = self.v_sinks[:, :count].reshape(1, 1, count * heads, width)
        keys = apply_rope(keys, place.cos, place.sin, self.rotate_half)
        values = values * place.ones
        out: Tensor = self.inner(
            q,
            torch.cat((keys.reshape(1, -1, heads, width), k), dim=1),
            torch.cat((values.reshape(1, -1, heads, width), v), dim=1),
            place.inner,
        )
        return out
