"""The parts that a backend may choose when the decoder is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import Factory, field, frozen
from torch import nn

from llmx.model.params import Sinks

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.cache_layout import CacheLayout
    from llmx.model.kv_cache import AttentionCore, Core
    from llmx.model.params import DecoderParams
    from llmx.model.rope import RotaryEmbedding
    from llmx.quantize.codes import Codes


@frozen(kw_only=True)
class AttentionShape:
    """What an attention core is built for: head counts, elements per head, kept tokens.

    The heads may come in ``groups``, a batch of them; the counts are those of each.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    layout: CacheLayout
    dtype: torch.dtype
    groups: int = 1


NormFactory = Callable[[int, float], nn.Module]
"""(dim, eps) to a module on [..., dim] with a parameter ``weight`` [dim]."""

RotateHalfFactory = Callable[[int, int], nn.Module]
"""(head_dim, rotary_dim) to a module on [..., head_dim], see ``rope.RotateHalf``."""

RotaryFactory = Callable[["DecoderParams", "BuildOptions"], "RotaryEmbedding"]
"""To a module positions [S] -> cos, sin, see ``rope.RotaryEmbedding`` and ``rope.RotaryTable``."""

AttentionFactory = Callable[[AttentionShape], "AttentionCore"]
"""To a module (q [G, S, H, D], k [G, S, Hkv, D], v, place) -> [G, S, H, D], see ``kv_cache``."""

RecentFactory = Callable[[int, int, torch.dtype], "Core"]
"""(count, width, dtype) to a module (x [1, S, width], place) -> [1, count + S, width], see
``recent.RecentRows``."""

QuantizedLinearFactory = Callable[[nn.Linear, "Codes"], nn.Module]
"""(float layer, its rounded weight) to the layer that computes with it, see ``quantize.linear``."""

QuantizedEmbeddingFactory = Callable[["Codes", torch.dtype], nn.Module]
"""(rounded table, type of a row) to an embedding, see ``quantize.embedding``."""


Regrouping = Callable[[nn.Module], nn.Module]
"""From the decoder with its weights to the one that is lowered, which gives the same values."""


def recent_rows(count: int, width: int, dtype: torch.dtype) -> Core:
    """The last rows, in plain PyTorch operators."""
    from llmx.model.recent import RecentRows

    return RecentRows(count, width, dtype)


def as_built(model: nn.Module) -> nn.Module:
    """The regrouping of backends that take the decoder as it is."""
    return model


@frozen(kw_only=True)
class ModelOps:
    """Flavours of the decoder's parts, and what the kernels ask of quantized weights.

    ``recent``: what keeps the last rows of a sequence between calls, for short convolutions.
    ``shared_table``: an embedding that keeps the bytes of ``quantized_linear`` for its weight.
    ``regroup``: how parts are put together for lowering, once they have their weights.
    ``kv_heads_apart``: whether each key/value head has a cache of its own, so that what it reads
    lies side by side.
    ``group_multiple``: groups of less than 8 bits must be a multiple of this many input channels.
    ``int8_groups``: whether 8-bit weights may have several scales per row.
    ``integer_weights``: whether a checkpoint's integers can stay; else the backend is given floats,
    and rounds them by itself.
    ``integer_linears``: whether linear layers take integer weights with the model's float type.
    ``arithmetic``: a narrower float type that the device may compute in all the same.
    """

    norm: NormFactory
    rotary: RotaryFactory
    rotate_half: RotateHalfFactory
    attention: AttentionFactory
    quantized_linear: QuantizedLinearFactory
    quantized_embedding: QuantizedEmbeddingFactory
    shared_table: QuantizedEmbeddingFactory
    recent: RecentFactory = recent_rows
    regroup: Regrouping = as_built
    kv_heads_apart: bool = False
    group_multiple: int = 1
    int8_groups: bool = True
    integer_weights: bool = True
    integer_linears: bool = True
    arithmetic: torch.dtype | None = None


@frozen(kw_only=True)
class BuildOptions:
    """What the job asks of the model, beyond its parameters.

    Attributes:
        dtype: of activations, caches and unquantized weights.
        max_context_length: tokens that a text may have.
        longest_call: most tokens in one call.
        windows: tokens that layers attend to, a pattern that repeats; 0 is all. Empty: as the
            model has them.
        sinks: for texts beyond what the model was made for.
        inputs, outputs: ids of the tokens that the model reads and says; ``None`` is all.
        full_logits: logits of every position instead of the last one's only.
        rotation: makes what turns the input of each feed-forward block's last layer.
    """

    dtype: torch.dtype
    max_context_length: int
    longest_call: int = field(
        default=Factory(lambda self: self.max_context_length, takes_self=True)
    )
    windows: Sequence[int] = ()
    sinks: Sinks | None = None
    inputs: Sequence[int] | None = None
    outputs: Sequence[int] | None = None
    full_logits: bool = False
    rotation: Callable[[], nn.Module] = nn.Identity

    @property
    def position_span(self) -> int:
        """Tokens by which a query and what it attends to can be apart, plus 1."""
        return self.max_context_length if self.sinks is None else self.sinks.tokens


def plain_ops(*, kv_cache: bool, fused_attention: bool, int8_cache: bool) -> ModelOps:
    """Flavours in plain PyTorch, attention as these options say; quantized weights as torchao's."""
    from llmx.model.norm import RMSNorm
    from llmx.model.recent import NoRecentRows, RecentRows
    from llmx.model.rope import RotateHalf, rotary_embedding
    from llmx.quantize.embedding import QuantizedEmbedding, table_as_kernels_read_it
    from llmx.quantize.linear import affine_linear

    return ModelOps(
        norm=RMSNorm,
        rotary=rotary_embedding,
        rotate_half=RotateHalf,
        attention=_attention(kv_cache, fused_attention, int8_cache),
        recent=RecentRows if kv_cache else NoRecentRows,
        quantized_linear=affine_linear,
        quantized_embedding=QuantizedEmbedding,
        shared_table=table_as_kernels_read_it,
    )


def ops_for(job: ExportJob) -> ModelOps:
    """``plain_ops`` with attention as a job asks."""
    return plain_ops(
        kv_cache=job.model.use_kv_cache,
        fused_attention=job.model.use_sdpa_with_kv_cache,
        int8_cache=job.model.quantize_kv_cache,
    )


def _attention(kv_cache: bool, fused: bool, int8: bool) -> AttentionFactory:
    from llmx.model.int8_kv_cache import FusedInt8CachedAttention, Int8CachedAttention
    from llmx.model.kv_cache import CachedAttention, FusedCachedAttention, UncachedAttention

    match kv_cache, fused, int8:
        case False, _, _:
            return UncachedAttention
        case True, True, True:
            return FusedInt8CachedAttention
        case True, False, True:
            return Int8CachedAttention
        case True, True, False:
            return FusedCachedAttention
    return CachedAttention
