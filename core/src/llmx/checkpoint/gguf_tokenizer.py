"""The tokenizer inside a GGUF file, written as the ``tokenizer.json`` that runners load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.checkpoint.base import TokenizerSections
from llmx.checkpoint.gguf_pieces import is_piece_vocabulary, piece_sections
from llmx.errors import CheckpointError
from llmx.tokenizer_json import bpe_tokenizer

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
        CheckpointError: the tokenizer is neither a byte-level BPE whose pre-tokenizer the family
            knows, nor one of SentencePiece's with a token for each byte.
    """
    kind = metadata.get(PREFIX + "model")
    if kind is None:
        return None
    tokens: Sequence[str] = _required(source, metadata, "tokens")
    types: Sequence[int] = _required(source, metadata, "token_type")
    scores: Sequence[float] = metadata.get(PREFIX + "scores", ())
    if kind == BYTE_LEVEL_BPE:
        own = _byte_level_sections(source, metadata, sections)
    elif is_piece_vocabulary(types, scores):
        own = piece_sections(
            tokens,
            types,
            scores,
            unknown=metadata.get(PREFIX + "unknown_token_id"),
            space_prefix=metadata.get(PREFIX + "add_space_prefix", True),
        )
    else:
        raise CheckpointError(
            f"{source} has a tokenizer of the kind {kind!r}, which cannot be converted",
            remedy="Pass the model's own tokenizer.json or tokenizer.model with --tokenizer.",
        )
    # What no converter of SentencePiece models writes down: their texts begin with bos.
    adds_bos = metadata.get(PREFIX + "add_bos_token", kind != BYTE_LEVEL_BPE)
    bos = metadata.get(PREFIX + "bos_token_id") if adds_bos else None
    content = bpe_tokenizer(
        added_tokens=_added_tokens(tokens, types),
        normalizer=own.get("normalizer"),
        pre_tokenizer=own["pre_tokenizer"],
        post_processor=None if bos is None else _starting_with(bos, tokens[bos]),
        decoder=own["decoder"],
        model={"vocab": {token: index for index, token in enumerate(tokens)}, **own["model"]},
    )
    target = folder / "tokenizer.json"
    target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return target


def _byte_level_sections(
    source: str, metadata: Mapping[str, Any], sections: TokenizerSections
) -> dict[str, Any]:
    """What the header holds, and what the family knows about the rule that it only names."""
    merges: Sequence[str] = _required(source, metadata, "merges")
    name = str(metadata.get(PREFIX + "pre", "default"))
    known = sections(name)
    if known is None:
        raise CheckpointError(
            f"{source} splits text by the rule {name!r}, which this family does not know",
            remedy="Pass the model's own tokenizer.json with --tokenizer.",
        )
    return {
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        **known,
        "model": {"merges": [merge.split(" ", 1) for merge in merges], **known.get("model", {})},
    }


def _required(source: str, metadata: Mapping[str, Any], name: str) -> Any:
    if PREFIX + name not in metadata:
        raise CheckpointError(
            f"{source}: the tokenizer lacks {PREFIX}{name}",
            remedy="Pass the model's own tokenizer.json with --tokenizer.",
        )
    return metadata[PREFIX + name]


def _added_tokens(tokens: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens that are matched as they are before the text is split.

    ``special`` hides a token from decoded text.
    """
    return [
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


def _starting_with(bos: int, token: str) -> dict[str, Any]:
    """A post-processor that puts bos before every text."""
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {token: {"id": token, "ids": [bos], "tokens": [token]}},
    }
