"""Text out of tokens that may hold parts of characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONTEXT = 4
INCOMPLETE = "\ufffd"


class TextStream:
    """Gives the text that each new token completes.

    A character may be spread over several tokens, and how a token reads may depend on the one
    before it (a leading space is dropped at the beginning of a text). So a few tokens are decoded
    together, and what they add to the text without the last one is new.

    Args:
        decode: text of a run of tokens, with U+FFFD for incomplete characters.
        before: the tokens that the text continues.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(before[-CONTEXT:])
        self._start = 0
        self._read = len(self._tokens)

    def push(self, token: int) -> str:
        """The text that is complete with ``token``; empty while a character is not."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._start :])
        return "" if text.endswith(INCOMPLETE) else self._advance(text)

    def flush(self) -> str:
        """What is left at the end, with U+FFFD for a character that was never completed."""
        return self._advance(self._decode(self._tokens[self._start :]))

    def _advance(self, text: str) -> str:
        known = self._decode(self._tokens[self._start : self._read])
        self._start, self._read = self._read, len(self._tokens)
        return text[len(known) :]
