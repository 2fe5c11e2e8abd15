"""Tokenizers in files called ``tokenizer.model``, which are of two kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmx.errors import ArtifactError
from llmx.quiet import native_stderr_captured
from llmx.run.tokenizer import TextTokenizer


def load_model_tokenizer(path: Path) -> TextTokenizer:
    """Load SentencePiece's binary format, or tiktoken's lines of a token in base64 and its rank.

    Raises:
        ArtifactError: it is neither.
    """
    try:
        return RankTokenizer(path) if _has_ranks(path) else PieceTokenizer(path)
    except (ValueError, RuntimeError, OSError) as error:
        raise ArtifactError(
            f"{path} is no tokenizer that the runtime loads: {error}",
            remedy="name a tokenizer.json or tokenizer.model with --tokenizer",
        ) from error


def _has_ranks(path: Path) -> bool:
    with path.open("rb") as file:
        words = file.readline(1024).split()
    return len(words) == 2 and words[1].isdigit()


class PieceTokenizer(TextTokenizer):
    """SentencePiece. Special tokens that a text spells out stay text, as in the runtime."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model: Any = SentencePieceProcessor()
        with native_stderr_captured():
            self._model.Load(str(path))
        self.size = int(self._model.GetPieceSize())

    def encode(self, text: str) -> list[int]:
        return list(self._model.EncodeAsIds(text))

    def encode_document(self, text: str) -> list[int]:
        bos = int(self._model.bos_id())
        return [*([bos] if bos >= 0 else []), *self.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._model.DecodeIds([token for token in tokens if token < self.size]))

    def spelling(self, token: int) -> str | None:
        return str(self._model.IdToPiece(token)) if token < self.size else None


class RankTokenizer(TextTokenizer):
    """tiktoken's format. The file has no special tokens; the runtime's usual ones are added."""

    def __init__(self, path: Path) -> None:
        from pytorch_tokenizers import TiktokenTokenizer

        self._tokenizer: Any = TiktokenTokenizer(str(path))
        self._special = {token: text for text, token in self._tokenizer.special_tokens.items()}
        self.size = int(self._tokenizer.n_words)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, bos=False, eos=False, allowed_special="all"))

    def encode_document(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, bos=True, eos=False, allowed_special="all"))

    def decode(self, tokens: Sequence[int]) -> str:
        encoding = self._tokenizer.model
        pieces = [
            encoding.decode_single_token_bytes(token)
            for token in tokens
            if token < self.size and token not in self._special
        ]
        return b"".join(pieces).decode("utf-8", errors="replace")

    def spelling(self, token: int) -> str | None:
        return self._special.get(token)
