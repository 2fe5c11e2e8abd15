"""``tokenizer.json`` of Hugging Face's tokenizers, as far as its parts are always the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bpe_tokenizer(
    *, model: Mapping[str, Any], added_tokens: list[dict[str, Any]], **sections: Any
) -> dict[str, Any]:
    """The file's content for a byte-pair encoding.

    Args:
        model: its ``vocab`` and ``merges``, and what differs from a plain encoding.
        sections: ``normalizer``, ``pre_tokenizer``, ``post_processor`` and ``decoder``, where there
            are any.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **sections,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **model,
        },
    }
