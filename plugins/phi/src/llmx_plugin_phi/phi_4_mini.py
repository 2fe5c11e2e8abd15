"""Phi-4-mini (Microsoft): grouped queries, three quarters of each head rotated, a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx import Checkpoint, ModelSize, TokenIds, hookimpl
from llmx.model.params import LongRope
from llmx_plugin_phi.shared import (
    MODEL_TYPE,
    TRAINED_CONTEXT,
    convert_weights,
    default_backend,
    published,
    read_ids,
)

__all__ = ["convert_weights", "default_backend"]

SHORT = (1.0,) * 48
LONG = (
    1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649,
    2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845,
    5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158,
    11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807, 22.90118105,
    25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7, 32.71,
    32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
)  # fmt: skip

SIZES = {
    "3.8b": published(
        "Phi-4-mini-instruct",
        n_heads=24,
        n_kv_heads=8,
        head_dim=128,
        rotary_dim=96,
        vocab_size=200064,
        tied_embeddings=True,
        max_position=131072,
        rope_scaling=LongRope(SHORT, LONG, TRAINED_CONTEXT),
    ),
}
# <|end|> ends a turn, <|endoftext|> a text, which begins with the same token.
PUBLISHED = TokenIds(bos=199999, eos=(200020, 199999))

# The split of OpenAI's o200k_base, which llama.cpp calls gpt-4o.
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLIT = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+{ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*{ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, MODEL_TYPE, SIZES)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    return read_ids(checkpoint, PUBLISHED)


@hookimpl
def gguf_tokenizer(name: str) -> Mapping[str, Any] | None:
    if name != "gpt-4o":
        return None
    steps = [
        {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
