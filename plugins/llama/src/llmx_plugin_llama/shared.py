"""What Llama 3, 3.1 and 3.2 have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, DecoderParams, TokenIds, WeightMap, hookimpl

HUB = "https://huggingface.co/meta-llama"
SHARED: dict[str, Any] = {"vocab_size": 128256, "norm_eps": 1e-5, "rope_theta": 5e5}

# llama.cpp's name of the rule, and what tokenizer.json says: the split of OpenAI's cl100k_base.
PRE_TOKENIZERS = ("llama-bpe", "llama3")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_params(config: Mapping[str, Any], factor: float) -> DecoderParams:
    """The decoder's parameters; ``factor`` scales the rope where Meta's files say only that it is.

    Source: ``rope_scaling`` in the ``config.json`` of the same weights on the hub.
    """
    from llmx.model.hf_config import decoder_params

    scaling = config.get("rope_scaling")
    if scaling and scaling.get("rope_type") == "llama3":
        config = {**config, "rope_scaling": {"factor": factor, **scaling}}
    return decoder_params(config)


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import decoder_map

    return decoder_map(checkpoint, params, gguf_interleaved_qk=True)


def read_ids(checkpoint: Checkpoint | None, published: TokenIds) -> TokenIds:
    """The checkpoint's own ids, or the published ones where it says nothing."""
    from llmx.checkpoint import read_token_ids

    return published if checkpoint is None else read_token_ids(checkpoint, published)


@hookimpl
def gguf_tokenizer(name: str) -> Mapping[str, Any] | None:
    if name not in PRE_TOKENIZERS:
        return None
    steps = [
        {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"ignore_merges": True},
    }


@hookimpl
def default_backend() -> str:
    return "xnnpack"
