"""FlatBuffers tables in bytes that nobody vouches for: every access stays within the buffer.

The runtime of the ``flatbuffers`` package trusts its input. Format: the "FlatBuffers binary
format" page of its documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap
from typing import Any

Buffer = bytes | mmap

OFFSET = struct.Struct("<I")
VTABLE_OFFSET = struct.Struct("<i")
VTABLE_ENTRY = struct.Struct("<H")
EFFORT = 8
"""Times that each byte may be looked at. Offsets that lead to the same place again and again would
make a small file take forever."""


class MalformedError(ValueError):
    """An offset or a length leads out of the buffer; says where."""


class Budget:
    """Bytes that may still be looked at."""

    def __init__(self, left: int) -> None:
        self._left = left

    def spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise MalformedError("its parts lie on top of each other")


class Table:
    """A table at ``position``; fields are named by their index in the schema."""

    def __init__(self, data: Buffer, position: int, end: int, budget: Budget) -> None:
        """``end`` bounds the buffer where other data follow it."""
        self.data = data
        self.position = position
        self.end = end
        self._budget = budget
        self._vtable = position - self._read(VTABLE_OFFSET, position)
        self._size = self._read(VTABLE_ENTRY, self._vtable)

    @classmethod
    def root(cls, data: Buffer, end: int | None = None) -> Table:
        """The table that the whole buffer is."""
        end = len(data) if end is None else end
        if end < OFFSET.size:
            raise MalformedError("it is too short to hold anything")
        return cls(data, OFFSET.unpack_from(data)[0], end, Budget(EFFORT * end))

    def field(self, index: int) -> int | None:
        """Where the field is stored; ``None`` if it has its default."""
        entry = 4 + 2 * index
        if entry + VTABLE_ENTRY.size > self._size:
            return None
        offset = self._read(VTABLE_ENTRY, self._vtable + entry)
        return self.position + offset if offset else None

    def number(self, index: int, code: str, default: Any = 0) -> Any:
        """A scalar, ``code`` being its ``struct`` format."""
        at = self.field(index)
        return default if at is None else self._read(struct.Struct(f"<{code}"), at)

    def table(self, index: int) -> Table | None:
        at = self.field(index)
        return None if at is None else self._at(at)

    def union(self, index: int) -> tuple[int, Table | None]:
        """Which member the union at ``index`` (its type is the field before) holds, and that."""
        return self.number(index - 1, "B"), self.table(index)

    def tables(self, index: int) -> Iterator[Table]:
        for at in self.places(index):
            yield self._at(at)

    def places(self, index: int) -> Iterator[int]:
        """Where the offsets to :meth:`tables` are stored."""
        return self._elements(index, OFFSET.size)

    def numbers(self, index: int, code: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{code}")
        start, count = self._vector(index, size)
        self._budget.spend(count * size)
        return struct.unpack_from(f"<{count}{code}", self.data, start)

    def span(self, index: int) -> tuple[int, int]:
        """Where in the buffer :meth:`blob` is, and its length."""
        return self._vector(index, 1)

    def blob_size(self, index: int) -> int:
        """Length of what :meth:`blob` gives."""
        return self._vector(index, 1)[1]

    def blob(self, index: int) -> bytes:
        start, count = self._vector(index, 1)
        self._budget.spend(count)
        return bytes(self.data[start : start + count])

    def text(self, index: int) -> str:
        """A string; what is not UTF-8 becomes U+FFFD."""
        return self.blob(index).decode("utf-8", errors="replace")

    def _at(self, place: int) -> Table:
        self._budget.spend(OFFSET.size)
        return Table(self.data, place + self._read(OFFSET, place), self.end, self._budget)

    def _elements(self, index: int, size: int) -> Iterator[int]:
        start, count = self._vector(index, size)
        yield from range(start, start + count * size, size)

    def _vector(self, index: int, size: int) -> tuple[int, int]:
        at = self.field(index)
        if at is None:
            return 0, 0
        start = at + self._read(OFFSET, at)
        count = self._read(OFFSET, start)
        start += OFFSET.size
        if start + count * size > self.end:
            raise MalformedError(f"{count} elements at byte {start} go past the end")
        return start, count

    def _read(self, what: struct.Struct, at: int) -> int:
        if at < 0 or at + what.size > self.end:
            raise MalformedError(f"byte {at} is outside of it")
        value: int = what.unpack_from(self.data, at)[0]
        return value
