"""SentencePiece vocabularies in GGUF files, as the same tokenizer in terms of ``tokenizer.json``.

SentencePiece joins the two neighbours whose joint piece has the highest score; a BPE joins those
that come first in a list. So every way to split a piece in two is a merge, ordered by score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

NORMAL, BYTE = 1, 6
SPACE = "▁"


def is_piece_vocabulary(types: Sequence[int], scores: Sequence[float]) -> bool:
    """Whether pieces have scores and unknown characters become bytes."""
    return len(scores) == len(types) and BYTE in types


def piece_sections(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    *,
    unknown: int | None,
    space_prefix: bool,
) -> dict[str, Any]:
    """``normalizer``, ``pre_tokenizer``, ``decoder`` and ``model``.

    Args:
        unknown: id of the token for what the vocabulary does not have.
        space_prefix: whether a text is read as if a space came before it.
    """
    space: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = [{"type": "Prepend", "prepend": SPACE}] if space_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, space]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "unk_token": None if unknown is None else tokens[unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "merges": _merges(tokens, types, scores),
        },
    }


def _merges(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]
) -> list[list[str]]:
    pieces = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == NORMAL
    }
    found = [
        (-scores[index], pieces[left], pieces[right], left, right)
        for token, index in pieces.items()
        for left, right in _halves(token)
        if left in pieces and right in pieces
    ]
    return [[left, right] for *_, left, right in sorted(found)]


def _halves(token: str) -> Iterator[tuple[str, str]]:
    return ((token[:at], token[at:]) for at in range(1, len(token)))
