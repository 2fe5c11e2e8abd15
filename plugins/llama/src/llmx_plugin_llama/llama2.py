"""Llama 2 (Meta): untied embeddings, plain rope, a sentencepiece vocabulary of 32,000."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

SHARED: dict[str, Any] = {"vocab_size": 32000, "norm_eps": 1e-5, "rope_theta": 1e4}
HUB = "https://huggingface.co"

SIZES = {
    "7b": ModelSize(
        params=DecoderParams(
            dim=4096, n_layers=32, n_heads=32, n_kv_heads=32, head_dim=128, hidden_dim=11008,
            max_position=4096, **SHARED,
        ),
        hub_repo="meta-llama/Llama-2-7b-chat-hf",
        config_url=f"{HUB}/meta-llama/Llama-2-7b-chat-hf/blob/main/config.json",
    ),
    "13b": ModelSize(
        params=DecoderParams(
            dim=5120, n_layers=40, n_heads=40, n_kv_heads=40, head_dim=128, hidden_dim=13824,
            max_position=4096, **SHARED,
        ),
        hub_repo="meta-llama/Llama-2-13b-chat-hf",
        config_url=f"{HUB}/meta-llama/Llama-2-13b-chat-hf/blob/main/config.json",
    ),
    # Trained on TinyStories with the code of https://github.com/karpathy/llama2.c.
    "stories110m": ModelSize(
        params=DecoderParams(
            dim=768, n_layers=12, n_heads=12, n_kv_heads=12, head_dim=64, hidden_dim=2048,
            max_position=1024, tied_embeddings=True, **SHARED,
        ),
        hub_repo="Xenova/llama2.c-stories110M",
        config_url=f"{HUB}/Xenova/llama2.c-stories110M/blob/main/config.json",
    ),
}  # fmt: skip
PUBLISHED = TokenIds(bos=1, eos=(2,))  # <s>, </s>


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, "llama", SIZES)


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import decoder_map

    return decoder_map(checkpoint, params, gguf_interleaved_qk=True)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
