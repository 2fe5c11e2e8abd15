"""Whether a checkpoint's configuration belongs to a family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from llmx.errors import CheckpointError
from llmx.model.hf_config import decoder_params
from llmx.model.params import DecoderParams, LongRope, ModelSize, RopeScaling

ANOTHER, SAME_ARCHITECTURE, SAME_FAMILY = 0, 1, 2
STAND_IN = -1
"""For families that read anything: only where no other family reads it."""

# Fine-tunes add a few tokens to the vocabulary.
MOST_TOKENS_ADDED = 1024


def match_sizes(
    config: Mapping[str, Any],
    model_type: str,
    sizes: Mapping[str, ModelSize],
    params_from_hf: Callable[[Mapping[str, Any]], DecoderParams] = decoder_params,
) -> int:
    """The answer of the hook ``match_config`` for a family whose sizes are known.

    Args:
        config: fields of ``config.json``, or those that other layouts are translated to.
        model_type: the family's ``model_type`` there. A configuration that does not say its own
            (Meta's) is judged by biases, norms and shapes.
        sizes: the family's published sizes.
        params_from_hf: the family's own hook, if it has one.

    Returns:
        2 if the rotary embedding is that of a published size and the vocabulary is too, give or
        take added tokens; 1 if only the architecture is the same; else 0.
    """
    stated = config.get("model_type")
    if stated not in (model_type, None):
        return ANOTHER
    published = [size.params for size in sizes.values()]
    # A stand-in for what Meta's files do not say; the lengths are not compared then.
    complete = {"max_position_embeddings": published[0].max_position, **config}
    try:
        params = params_from_hf(complete)
    except CheckpointError:
        # Of the right kind, as far as it says; reading it in earnest tells what is wrong.
        return ANOTHER if stated is None else SAME_ARCHITECTURE
    says_length = "max_position_embeddings" in config
    if any(_agree(params, each, says_length=says_length) for each in published):
        return SAME_FAMILY
    same_parts = any(_parts(params) == _parts(each) for each in published)
    return SAME_ARCHITECTURE if stated is not None or same_parts else ANOTHER


def _parts(params: DecoderParams) -> tuple[bool, ...]:
    return (params.qkv_bias, params.output_bias, params.mlp_bias, params.qk_norm)


def _agree(params: DecoderParams, published: DecoderParams, *, says_length: bool) -> bool:
    added = params.vocab_size - published.vocab_size
    same_length = (
        params.max_position == published.max_position
        if says_length
        else (params.dim, params.n_layers) == (published.dim, published.n_layers)
    )
    return (
        0 <= added <= MOST_TOKENS_ADDED
        and same_length
        and _parts(params) == _parts(published)
        and params.rope_theta == published.rope_theta
        and _same_scaling(params.rope_scaling, published.rope_scaling)
    )


def _same_scaling(ours: RopeScaling, published: RopeScaling) -> bool:
    if isinstance(ours, LongRope) and isinstance(published, LongRope):
        # Some layouts store the lists in fp32, and the factor on the magnitude that follows.
        lists = (
            (ours.short_factor, published.short_factor),
            (ours.long_factor, published.long_factor),
        )
        return all(
            math.isclose(a, b, rel_tol=1e-6) for x, y in lists for a, b in zip(x, y, strict=True)
        )
    return ours == published
