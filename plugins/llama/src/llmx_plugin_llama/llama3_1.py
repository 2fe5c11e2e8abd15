"""Llama 3.1 (Meta): Llama 3 with its rope scaled for 128k tokens of context."""

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
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
)
SCALED: dict[str, Any] = {"max_position": 131072, "rope_scaling": ROPE, **SHARED}

SIZES = {
    "8b": ModelSize(
        params=DecoderParams(
            dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336,
            **SCALED,
        ),
        hub_repo="meta-llama/Llama-3.1-8B-Instruct",
        config_url=f"{HUB}/Llama-3.1-8B-Instruct/blob/main/config.json",
    ),
    "70b": ModelSize(
        params=DecoderParams(
            dim=8192, n_layers=80, n_heads=64, n_kv_heads=8, head_dim=128, hidden_dim=28672,
            **SCALED,
        ),
        hub_repo="meta-llama/Llama-3.1-70B-Instruct",
        config_url=f"{HUB}/Llama-3.1-70B-Instruct/blob/main/config.json",
    ),
    "405b": ModelSize(
        params=DecoderParams(
            dim=16384, n_layers=126, n_heads=128, n_kv_heads=8, head_dim=128, hidden_dim=53248,
            **SCALED,
        ),
        hub_repo="meta-llama/Llama-3.1-405B-Instruct",
        config_url=f"{HUB}/Llama-3.1-405B-Instruct/blob/main/config.json",
    ),
}  # fmt: skip
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
