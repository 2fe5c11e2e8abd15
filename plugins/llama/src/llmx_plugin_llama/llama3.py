"""Llama 3 (Meta): grouped queries, a vocabulary of 128,256, plain rope with a large base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, hookimpl
from llmx_plugin_llama.shared import (
    HUB,
    SHARED,
    convert_weights,
    default_backend,
    gguf_tokenizer,
    read_ids,
)

__all__ = [
    "convert_weights",
    "default_backend",
    "gguf_tokenizer",
    "match_config",
    "sizes",
    "token_ids",
]

SIZES = {
    "8b": ModelSize(
        params=DecoderParams(
            dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128, hidden_dim=14336,
            max_position=8192, **SHARED,
        ),
        hub_repo="meta-llama/Meta-Llama-3-8B-Instruct",
        config_url=f"{HUB}/Meta-Llama-3-8B-Instruct/blob/main/config.json",
    ),
}  # fmt: skip
# <|eot_id|> ends a turn, <|end_of_text|> a text of the base model.
PUBLISHED = TokenIds(bos=128000, eos=(128009, 128001))


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, "llama", SIZES)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    return read_ids(checkpoint, PUBLISHED)
