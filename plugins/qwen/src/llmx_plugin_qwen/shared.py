"""What Qwen2.5 and Qwen3 have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

# <|im_end|> ends a turn, <|endoftext|> a text; texts do not begin with a token of their own.
PUBLISHED = TokenIds(bos=151643, eos=(151645, 151643))
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def published(repo: str, **params: Any) -> ModelSize:
    """A row of a family's table; ``repo`` is a repository of the organisation Qwen."""
    return ModelSize(
        params=DecoderParams(rope_theta=1e6, norm_eps=1e-6, **params),
        hub_repo=f"Qwen/{repo}",
        config_url=f"https://huggingface.co/Qwen/{repo}/blob/main/config.json",
    )


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import decoder_map

    return decoder_map(checkpoint, params, gguf_interleaved_qk=False)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def gguf_tokenizer(name: str) -> Mapping[str, Any] | None:
    if name != "qwen2":
        return None
    steps = [
        {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
    }


@hookimpl
def default_backend() -> str:
    return "xnnpack"
