"""Texts at which an answer ends."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on, up to the first of some stop strings.

    What may turn out to be the beginning of one is held back.

    Attributes:
        found: whether one came; nothing is passed on after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is certain with ``piece``."""
        if self.found:
            return ""
        text = self._held + piece
        starts = [at for at in map(text.find, self._stops) if at >= 0]
        if starts:
            self.found = True
            self._held = ""
            return text[: min(starts)]
        kept = len(text) - self._beginning(text)
        self._held = text[kept:]
        return text[:kept]

    def flush(self) -> str:
        """What is left when nothing more comes."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of ``text`` with which a stop string begins."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:length])
            ),
            default=0,
        )
