"""For backends whose attention looks back on everything that went before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.errors import ConfigError
from llmx.model.cache_layout import WholeContext

if TYPE_CHECKING:
    from llmx.model.kv_cache import AttentionCore
    from llmx.model.ops import AttentionFactory, AttentionShape


def over_whole_contexts(make: AttentionFactory, backend: str, remedy: str) -> AttentionFactory:
    """``make``, which raises a ``ConfigError`` for sliding windows and attention sinks.

    ``remedy`` says what to do instead, with the ``backend`` named as its makers do.
    """

    def checked(shape: AttentionShape) -> AttentionCore:
        if not isinstance(shape.layout, WholeContext):
            raise ConfigError(
                f"{backend} has no attention with sliding windows or attention sinks",
                remedy=remedy,
            )
        return make(shape)

    return checked
