"""A stretch of a file."""

from __future__ import annotations

from attrs import frozen


@frozen
class Span:
    """Bytes of the file: [offset, offset + length)."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length
