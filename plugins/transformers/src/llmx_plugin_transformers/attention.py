"""llmx's caches and attention under the modeling code of ``transformers``.

Most models ask ``AttentionInterface`` for their attention: it is given the keys and values of this
call and keeps them itself. The others ask a ``Cache`` for all keys and values so far, and attend
by themselves under a mask.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from llmx import CheckpointError
from llmx.model.kv_cache import AttentionCore
from llmx.model.ops import AttentionShape
from llmx.model.rope import RotaryEmbedding

NAME = "llmx"
CORE = "llmx_core"
"""The attribute of an attention module that holds its core."""
HEAD_SIZE = 0.5
"""Cores divide products by head_dim to the power of this."""

Places = Mapping[Hashable, Any]
_PLACES: ContextVar[Places] = ContextVar("places")


@contextmanager
def placed(places: Places) -> Iterator[None]:
    """What cores need to know of the call that is going on, by their kind."""
    token = _PLACES.set(places)
    try:
        yield
    finally:
        _PLACES.reset(token)


class OwnArithmetic(AttentionCore):
    """Keeps keys and values, and leaves attending to the model's own code.

    For attention with soft-capped scores or learned sinks, and for models that ask a ``Cache``.
    Without ``cached`` only one call's own keys are there.
    """

    k_cache: Tensor
    v_cache: Tensor

    def __init__(self, shape: AttentionShape, value_dim: int, *, cached: bool) -> None:
        super().__init__(shape.layout)
        self.cached = cached
        self.dtype = shape.dtype
        if cached:
            for name, width in (("k_cache", shape.head_dim), ("v_cache", value_dim)):
                size = (1, shape.layout.slots, shape.n_kv_heads, width)
                self.register_buffer(name, torch.zeros(size, dtype=shape.dtype, device="cpu"))

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> tuple[Any, Tensor]:
        """Slots to write, and a mask [1, 1, S, T] to add to scores."""
        if self.cached:
            placement = self.layout.place(positions)
            slots, visible = placement.slots, placement.visible
        else:
            slots, visible = None, self.layout.visible(positions.unsqueeze(1), positions)
        seen = torch.zeros((), dtype=self.dtype, device=positions.device)
        lowest = torch.finfo(self.dtype).min
        return slots, torch.where(visible, seen, lowest).unsqueeze(0).unsqueeze(0)

    def keep(self, k: Tensor, v: Tensor, slots: Any) -> tuple[Tensor, Tensor]:
        """k and v [1, Hkv, S, D] of a call; returns those of all tokens [1, Hkv, T, D]."""
        if not self.cached:
            return k, v
        self.k_cache.index_copy_(1, slots, k.transpose(1, 2))
        self.v_cache.index_copy_(1, slots, v.transpose(1, 2))
        return self.k_cache.transpose(1, 2), self.v_cache.transpose(1, 2)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """As ``AttentionInterface`` asks: query [1, H, S, D], key and value [1, Hkv, S, D].

    Returns [1, S, H, D of value].
    """
    core = getattr(module, CORE)
    place = _PLACES.get()[core.kind]
    if isinstance(core, OwnArithmetic):
        slots, mask = place
        key, value = core.keep(key, value, slots)
        eager = sys.modules[type(module).__module__].eager_attention_forward
        found, _ = eager(module, query, key, value, mask, scaling=scaling, dropout=0.0, **others)
        return found, None
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    if scaling is not None and scaling != head_dim**-HEAD_SIZE:
        query = query * (scaling * head_dim**HEAD_SIZE)
    if value_dim != head_dim:
        value = nn.functional.pad(value, (0, head_dim - value_dim))
    out = core(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), place)
    return (out[..., :value_dim] if value_dim != head_dim else out), None


class _KeptLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of a ``Cache`` whose tensors an ``OwnArithmetic`` core holds."""

    def __init__(self, core: OwnArithmetic) -> None:
        super().__init__()
        self.core = core

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The core has been initialised."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        slots, _mask = _PLACES.get()[self.core.kind]
        return self.core.keep(key_states, value_states, slots)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise CheckpointError("the model makes a mask of its own, which llmx cannot follow")

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class KeptCache(Cache):  # type: ignore[misc]
    """The ``Cache`` of models that attend by themselves; ``None`` for layers that do not."""

    def __init__(self, cores: list[OwnArithmetic]) -> None:
        super().__init__(layers=[_KeptLayer(core) for core in cores])


AttentionInterface.register(NAME, attend)
