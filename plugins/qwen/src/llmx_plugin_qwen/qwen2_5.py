"""Qwen2.5 (Alibaba): biases on q, k and v; the smaller sizes tie head and embedding."""

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

SMALL: dict[str, Any] = {
    "vocab_size": 151936, "max_position": 32768, "qkv_bias": True, "tied_embeddings": True,
}  # fmt: skip
LARGE: dict[str, Any] = {"vocab_size": 152064, "max_position": 32768, "qkv_bias": True}
WIDEST: dict[str, Any] = {
    "dim": 5120, "n_layers": 64, "n_heads": 40, "n_kv_heads": 8, "head_dim": 128,
    "hidden_dim": 27648,
}  # fmt: skip

SIZES = {
    "0.5b": published(
        "Qwen2.5-0.5B-Instruct",
        dim=896, n_layers=24, n_heads=14, n_kv_heads=2, head_dim=64, hidden_dim=4864, **SMALL,
    ),
    "1.5b": published(
        "Qwen2.5-1.5B-Instruct",
        dim=1536, n_layers=28, n_heads=12, n_kv_heads=2, head_dim=128, hidden_dim=8960, **SMALL,
    ),
    "3b": published(
        "Qwen2.5-3B-Instruct",
        dim=2048, n_layers=36, n_heads=16, n_kv_heads=2, head_dim=128, hidden_dim=11008, **SMALL,
    ),
    "7b": published(
        "Qwen2.5-7B-Instruct",
        dim=3584, n_layers=28, n_heads=28, n_kv_heads=4, head_dim=128, hidden_dim=18944, **LARGE,
    ),
    "14b": published(
        "Qwen2.5-14B-Instruct",
        dim=5120, n_layers=48, n_heads=40, n_kv_heads=8, head_dim=128, hidden_dim=13824, **LARGE,
    ),
    "32b": published("Qwen2.5-32B-Instruct", **WIDEST, **LARGE),
    "coder-32b": published("Qwen2.5-Coder-32B-Instruct", **WIDEST, **LARGE),
}  # fmt: skip


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    return decoder_params(config, qkv_bias=True)


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, "qwen2", SIZES, params_from_hf)
