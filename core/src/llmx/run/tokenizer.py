"""The tokenizer of a model, as the runtime applies it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmx.errors import ArtifactError
from llmx.quiet import native_stderr_captured
from llmx.run.runtime import last_line


class TextTokenizer(ABC):
    """Text to ids and back.

    Attributes:
        size: one more than the highest id.
    """

    size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands; special tokens that it spells out are recognised."""

    @abstractmethod
    def encode_document(self, text: str) -> list[int]:
        """Ids of a text on its own: with a bos token where the tokenizer's file asks for one."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens`` without special tokens; U+FFFD stands for incomplete characters."""

    @abstractmethod
    def spelling(self, token: int) -> str | None:
        """How a special token is written, ``None`` if there is no such token."""


def load_tokenizer(path: Path) -> TextTokenizer:
    """Load a ``tokenizer.json``, or a ``tokenizer.model`` of either kind.

    Raises:
        ArtifactError: it is not there, or the runtime cannot load it.
    """
    try:
        head = path.open("rb").read(1)
    except OSError as error:
        raise ArtifactError(
            f"the tokenizer {path} cannot be read: {error.strerror or error}",
            remedy="name a tokenizer.json or tokenizer.model with --tokenizer",
        ) from error
    if head == b"{":
        return JsonTokenizer(path)
    from llmx.run.model_tokenizer import load_model_tokenizer

    return load_model_tokenizer(path)


class JsonTokenizer(TextTokenizer):
    """A ``tokenizer.json``.

    ExecuTorch's own implementation encodes, so that a prompt is split here as on a device; Hugging
    Face's decodes, because the other does not give incomplete characters to Python.
    """

    def __init__(self, path: Path) -> None:
        with native_stderr_captured() as log:
            from pytorch_tokenizers import CppHFTokenizer
            from tokenizers import Tokenizer

            self._runtime: Any = CppHFTokenizer()
            try:
                self._runtime.load(str(path))
                self._reference: Any = Tokenizer.from_file(str(path))
            # tokenizers raises bare Exceptions.
            except Exception as error:
                raise ArtifactError(
                    f"the runtime cannot load the tokenizer {path}: {last_line(log) or error}",
                    remedy="export again with the model's own tokenizer.json",
                ) from error
        self.size = max(self._reference.get_vocab().values(), default=-1) + 1
        added = self._reference.get_added_tokens_decoder().values()
        self._left = _spellings([token.content for token in added if token.lstrip])
        self._right = _spellings([token.content for token in added if token.rstrip])

    def encode(self, text: str) -> list[int]:
        return list(self._runtime.encode(self._strip(text), 0, 0))

    def encode_document(self, text: str) -> list[int]:
        # One bos is asked for; without a post_processor that knows it, the runtime adds none.
        return list(self._runtime.encode(self._strip(text), 1, 0))

    def _strip(self, text: str) -> str:
        """Take away the space that tokens swallow; the runtime (1.5) does not know that they do."""
        if self._left is not None:
            text = re.sub(rf"\s+({self._left})", r"\1", text)
        if self._right is not None:
            text = re.sub(rf"({self._right})\s+", r"\1", text)
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._reference.decode(list(tokens), skip_special_tokens=True))

    def spelling(self, token: int) -> str | None:
        found = self._reference.id_to_token(token)
        return None if found is None else str(found)


def _spellings(tokens: Sequence[str]) -> str | None:
    """A regular expression for any of the tokens, the longest that fits; ``None`` for none."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or None
