"""Llama 3.2 (Meta), the text models: small, with tied embeddings and rope scaled for 128k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, hookimpl
from llmx.model.params import FrequencyRope
from llmx_plugin_llama.shared import (
    HUB,
    SHARED,
    convert_weights,
    default_backend,
    gguf_tokenizer,
    read_ids,
    read_params,
)

__all__ = [
    "convert_weights",
    "default_backend",
    "gguf_tokenizer",
    "match_config",
    "sizes",
    "token_ids",
]

ROPE = FrequencyRope(
    factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
)
SMALL: dict[str, Any] = {
    "max_position": 131072, "rope_scaling": ROPE, "tied_embeddings": True, **SHARED,
}  # fmt: skip

SIZES = {
    "1b": ModelSize(
        params=DecoderParams(
            dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, hidden_dim=8192, **SMALL
        ),
        hub_repo="meta-llama/Llama-3.2-1B-Instruct",
        config_url=f"{HUB}/Llama-3.2-1B-Instruct/blob/main/config.json",
    ),
    "3b": ModelSize(
        params=DecoderParams(
            dim=3072, n_layers=28, n_heads=24, n_kv_heads=8, head_dim=128, hidden_dim=8192, **SMALL
        ),
        hub_repo="meta-llama/Llama-3.2-3B-Instruct",
        config_url=f"{HUB}/Llama-3.2-3B-Instruct/blob/main/config.json",
    ),
}
# <|eot_id|> ends a turn, <|end_of_text|> a text of the base model, <|eom_id|> a call of a tool.
PUBLISHED = TokenIds(bos=128000, eos=(128009, 128001, 128008))


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    return read_params(config, ROPE.factor)


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, "llama", SIZES, params_from_hf)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    return read_ids(checkpoint, PUBLISHED)
