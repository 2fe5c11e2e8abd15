"""The parts that a backend may choose when the decoder is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import nn

if TYPE_CHECKING:
    from llmx.quantize.codes import Codes


@frozen(kw_only=True)
class AttentionShape:
    """What an attention core is built for: head counts, elements per head, tokens of context."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    max_context_length: int
    dtype: torch.dtype


NormFactory = Callable[[int, float], nn.Module]
"""(dim, eps) to a module on [..., dim] with a parameter ``weight`` [dim]."""

RotateHalfFactory = Callable[[int, int], nn.Module]
"""(head_dim, rotary_dim) to a module on [..., head_dim], see ``rope.RotateHalf``."""

AttentionFactory = Callable[[AttentionShape], nn.Module]
"""To a module (q [1, S, H, D], k [1, S, Hkv, D], v, positions [S], start) -> [1, S, H, D]."""

QuantizedLinearFactory = Callable[[nn.Linear, "Codes"], nn.Module]
"""(float layer, its rounded weight) to the layer that computes with it, see ``quantize.linear``."""

QuantizedEmbeddingFactory = Callable[["Codes", torch.dtype], nn.Module]
"""(rounded table, type of a row) to an embedding, see ``quantize.embedding``."""


@frozen(kw_only=True)
class ModelOps:
    """Flavours of the decoder's parts, and what the kernels ask of quantized weights.

    ``shared_table``: an embedding that keeps the bytes of ``quantized_linear`` for its weight.
    ``group_multiple``: groups of less than 8 bits must be a multiple of this many input channels.
    ``int8_groups``: whether 8-bit weights may have several scales per row.
    ``integer_linears``: whether linear layers take integer weights with the model's float type.
    """

    norm: NormFactory
    rotate_half: RotateHalfFactory
    attention: AttentionFactory
    quantized_linear: QuantizedLinearFactory
    quantized_embedding: QuantizedEmbeddingFactory
    shared_table: QuantizedEmbeddingFactory
    group_multiple: int = 1
    int8_groups: bool = True
    integer_linears: bool = True


@frozen(kw_only=True)
class BuildOptions:
    """What the job asks of the model, beyond its parameters.

    Attributes:
        dtype: of activations, caches and unquantized weights.
        max_context_length: tokens that the KV cache holds.
        full_logits: logits of every position instead of the last one's only.
    """

    dtype: torch.dtype
    max_context_length: int
    full_logits: bool = False


def plain_ops(*, kv_cache: bool, fused_attention: bool) -> ModelOps:
    """Flavours in plain PyTorch, attention as the job asks; quantized weights as torchao's."""
    from llmx.model.kv_cache import CachedAttention, FusedCachedAttention, UncachedAttention
    from llmx.model.norm import RMSNorm
    from llmx.model.rope import RotateHalf
    from llmx.quantize.embedding import QuantizedEmbedding, table_as_kernels_read_it
    from llmx.quantize.linear import affine_linear

    attention: AttentionFactory = UncachedAttention
    if kv_cache:
        attention = FusedCachedAttention if fused_attention else CachedAttention
    return ModelOps(
        norm=RMSNorm,
        rotate_half=RotateHalf,
        attention=attention,
        quantized_linear=affine_linear,
        quantized_embedding=QuantizedEmbedding,
        shared_table=table_as_kernels_read_it,
    )
