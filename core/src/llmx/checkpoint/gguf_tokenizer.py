"""The tokenizer inside a GGUF file, written as the ``tokenizer.json`` that runners load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.checkpoint.base import TokenizerSections
from llmx.errors import CheckpointError

PREFIX = "tokenizer.ggml."
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
BYTE_LEVEL_BPE = "gpt2"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def control_tokens(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens that mark structure rather than text, by their spelling."""
    types = metadata.get(PREFIX + "token_type", ())
    tokens = metadata.get(PREFIX + "tokens", ())
    return {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind in (UNKNOWN, CONTROL)
    }


def write_tokenizer_json(
    source: str, metadata: Mapping[str, Any], folder: Path, sections: TokenizerSections
) -> Path | None:
    """Write ``folder/tokenizer.json``; ``None`` if the file carries no tokenizer.

    Raises:
        CheckpointError: the tokenizer is not a byte-level BPE, or nobody knows its pre-tokenizer.
    """
    kind = metadata.get(PREFIX + "model")
    if kind is None:
        return None
    if kind != BYTE_LEVEL_BPE:
        raise CheckpointError(
            f"{source} has a tokenizer of the kind {kind!r}, which cannot be converted",
            remedy="Pass the model's own tokenizer.json or tokenizer.model with --tokenizer.",
        )
    name = str(metadata.get(PREFIX + "pre", "default"))
    known = sections(name)
    if known is None:
        raise CheckpointError(
            f"{source} splits text by the rule {name!r}, which this family does not know",
            remedy="Pass the model's own tokenizer.json with --tokenizer.",
        )
    content = _tokenizer_json(source, metadata, known)
    target = folder / "tokenizer.json"
    target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return target


def _tokenizer_json(
    source: str, metadata: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    try:
        tokens: Sequence[str] = metadata[PREFIX + "tokens"]
        merges: Sequence[str] = metadata[PREFIX + "merges"]
        types: Sequence[int] = metadata[PREFIX + "token_type"]
    except KeyError as error:
        raise CheckpointError(
            f"{source}: the tokenizer lacks {error.args[0]}",
            remedy="Pass the model's own tokenizer.json with --tokenizer.",
        ) from error
    # Tokens outside the byte-level alphabet are matched as they are before the text is split.
    # `special` hides a token from decoded text.
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": known.get("normalizer"),
        "pre_tokenizer": known["pre_tokenizer"],
        "post_processor": _post_processor(metadata, tokens),
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
            **known.get("model", {}),
        },
    }


def _post_processor(metadata: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """Texts start with bos where the file says so."""
    bos = metadata.get(PREFIX + "bos_token_id")
    if bos is None or not metadata.get(PREFIX + "add_bos_token", False):
        return None
    special = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }
