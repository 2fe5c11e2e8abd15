"""Token ids as text: how ids go into ExecuTorch's LLM runner and come out of it unchanged.

The runner takes and gives text. Its Python binding fails on a token that holds a part of a
character only, as every emoji of a byte-level vocabulary consists of, and it does not tell which
tokens it made. With the tokenizer written here, in which each id is one character of its own, text
and ids are the same thing; the real tokenizer works outside of the runner.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from llmx.tokenizer_json import bpe_tokenizer

FIRST = 0x10000  # the planes behind the surrogates, which are no characters
LIMIT = 0x110000 - FIRST


def write_wire_tokenizer(path: Path, vocab_size: int) -> None:
    """Write a ``tokenizer.json`` for ids below ``vocab_size``, which is at most ``LIMIT``."""
    assert vocab_size <= LIMIT
    vocabulary = {chr(FIRST + token): token for token in range(vocab_size)}
    content = bpe_tokenizer(added_tokens=[], model={"vocab": vocabulary, "merges": []})
    path.write_text(json.dumps(content), encoding="ascii")


def to_wire(tokens: Iterable[int]) -> str:
    """The text that stands for these ids."""
    return "".join(chr(FIRST + token) for token in tokens)


def from_wire(piece: str) -> int:
    """The id that a piece of the runner's output stands for."""
    return ord(piece) - FIRST
