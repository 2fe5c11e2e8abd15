"""SmolLM2 (Hugging Face): small decoders with tied embeddings and plain rope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

SHARED: dict[str, Any] = {
    "vocab_size": 49152,
    "max_position": 8192,
    "head_dim": 64,
    "norm_eps": 1e-5,
    "tied_embeddings": True,
}
SMALL = DecoderParams(
    dim=576, n_layers=30, n_heads=9, n_kv_heads=3, hidden_dim=1536, rope_theta=1e5, **SHARED
)
MEDIUM = DecoderParams(
    dim=960, n_layers=32, n_heads=15, n_kv_heads=5, hidden_dim=2560, rope_theta=1e5, **SHARED
)
LARGE = DecoderParams(
    dim=2048, n_layers=24, n_heads=32, n_kv_heads=32, hidden_dim=8192, rope_theta=1.3e5, **SHARED
)
HUB = "https://huggingface.co/HuggingFaceTB"

SIZES = {
    "135m": ModelSize(
        params=SMALL,
        hub_repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        config_url=f"{HUB}/SmolLM2-135M-Instruct/blob/main/config.json",
    ),
    "360m": ModelSize(
        params=MEDIUM,
        hub_repo="HuggingFaceTB/SmolLM2-360M-Instruct",
        config_url=f"{HUB}/SmolLM2-360M-Instruct/blob/main/config.json",
    ),
    "1.7b": ModelSize(
        params=LARGE,
        hub_repo="HuggingFaceTB/SmolLM2-1.7B-Instruct",
        config_url=f"{HUB}/SmolLM2-1.7B-Instruct/blob/main/config.json",
    ),
    "135m-base": ModelSize(
        params=SMALL,
        hub_repo="HuggingFaceTB/SmolLM2-135M",
        config_url=f"{HUB}/SmolLM2-135M/blob/main/config.json",
    ),
    "360m-base": ModelSize(
        params=MEDIUM,
        hub_repo="HuggingFaceTB/SmolLM2-360M",
        config_url=f"{HUB}/SmolLM2-360M/blob/main/config.json",
    ),
    "1.7b-base": ModelSize(
        params=LARGE,
        hub_repo="HuggingFaceTB/SmolLM2-1.7B",
        config_url=f"{HUB}/SmolLM2-1.7B/blob/main/config.json",
    ),
}
# <|im_start|> opens and <|im_end|> ends a turn; base models stop at <|endoftext|>.
PUBLISHED = TokenIds(bos=1, eos=(2, 0))
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


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

    # llama.cpp files this model under the architecture whose q and k it interleaves.
    return decoder_map(checkpoint, params, gguf_interleaved_qk=True)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def gguf_tokenizer(name: str) -> Mapping[str, Any] | None:
    if name != "smollm":
        return None
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}}


@hookimpl
def default_backend() -> str:
    return "xnnpack"
