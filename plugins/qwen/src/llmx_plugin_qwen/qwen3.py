"""Qwen3 (Alibaba), the dense models: q and k normalised per head, wide heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import DecoderParams, ModelSize, hookimpl
from llmx_plugin_qwen.shared import (
    convert_weights,
    default_backend,
    gguf_tokenizer,
    published,
    token_ids,
)

__all__ = ["convert_weights", "default_backend", "gguf_tokenizer", "token_ids"]

LARGE: dict[str, Any] = {
    "vocab_size": 151936, "max_position": 40960, "head_dim": 128, "n_kv_heads": 8, "qk_norm": True,
}  # fmt: skip
SMALL: dict[str, Any] = {**LARGE, "tied_embeddings": True}

SIZES = {
    "0.6b": published("Qwen3-0.6B", dim=1024, n_layers=28, n_heads=16, hidden_dim=3072, **SMALL),
    "1.7b": published("Qwen3-1.7B", dim=2048, n_layers=28, n_heads=16, hidden_dim=6144, **SMALL),
    "4b": published("Qwen3-4B", dim=2560, n_layers=36, n_heads=32, hidden_dim=9728, **SMALL),
    "8b": published("Qwen3-8B", dim=4096, n_layers=36, n_heads=32, hidden_dim=12288, **LARGE),
    "14b": published("Qwen3-14B", dim=5120, n_layers=40, n_heads=40, hidden_dim=17408, **LARGE),
    "32b": published("Qwen3-32B", dim=5120, n_layers=64, n_heads=64, hidden_dim=25600, **LARGE),
}


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    return decoder_params(config, qk_norm=True)


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, "qwen3", SIZES, params_from_hf)
