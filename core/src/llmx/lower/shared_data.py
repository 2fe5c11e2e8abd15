"""Store once what a program holds twice: a delegate's weight that is also a constant.

A ``.pte`` keeps the constants of the portable kernels in one segment and every named datum of a
delegate in one of its own. The runtime reads a segment by its offset and size alone, so that a
datum's segment may lie inside that of the constants. Format: ExecuTorch's ``program.fbs`` and the
extended header in front of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO

import flatbuffers.number_types as types
from attrs import frozen
from flatbuffers.table import Table

MAGIC_AT, MAGIC, HEADER = 8, b"eh00", struct.Struct("<4sIQQQ")
SEGMENTS, CONSTANT_SEGMENT, NAMED_DATA = (4 + 2 * index for index in (4, 5, 7))
FIRST, SECOND = 4, 6
ALIGNMENT = 4096
"""Segments move by multiples of this, so that each stays aligned as it was."""
PIECE = 1 << 24


@frozen
class _Segment:
    """A range of the segment data, and where in the file its offset is written."""

    offset: int
    size: int
    field: int | None


@frozen
class _Layout:
    base: int
    size: int
    segments: list[_Segment]
    constants: list[tuple[int, int]]
    """(offset, size) of each constant, padding included."""
    named: list[int]
    """Indices of the segments of named data."""


def store_once(program: Path, *, at_least: int = 1 << 12) -> int:
    """Take named data out of the file that are a constant, byte for byte; the bytes saved.

    Data of fewer than ``at_least`` bytes stay. Only the part before the segments is read into
    memory; the file is replaced by a new one.
    """
    with program.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        layout = _read(data)
        found = dict(_copies(data, layout, at_least))
        if not found:
            return 0
        head, removed = _moved(bytearray(data[: layout.base]), layout, found)
        fresh = program.with_suffix(".once")
        with fresh.open("wb") as target:
            target.write(head)
            for start, end in _kept(layout.size, removed):
                file.seek(layout.base + start)
                _copy(file, target, end - start)
    fresh.replace(program)
    return sum(gone for _, gone in removed)


def _moved(
    head: bytearray, layout: _Layout, found: Mapping[int, int]
) -> tuple[bytearray, list[tuple[int, int]]]:
    """The head with the segments' new offsets, and which (offset, bytes) are to go."""
    moved = 0
    removed: list[tuple[int, int]] = []
    for index, segment in sorted(enumerate(layout.segments), key=lambda each: each[1].offset):
        if index in found:
            offset = found[index]
            gone = segment.size // ALIGNMENT * ALIGNMENT
            removed.append((segment.offset, gone))
            moved += gone
        else:
            offset = segment.offset - (moved if segment.offset else 0)
        if segment.field is not None:
            struct.pack_into("<Q", head, segment.field, offset)
    header = list(HEADER.unpack_from(head, MAGIC_AT))
    header[-1] = layout.size - moved
    HEADER.pack_into(head, MAGIC_AT, *header)
    return head, removed


def _kept(size: int, removed: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start = 0
    for offset, gone in removed:
        yield start, offset
        start = offset + gone
    yield start, size


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(count, PIECE))
        target.write(piece)
        count -= len(piece)


def _read(data: mmap) -> _Layout:
    magic, _, _, base, size = HEADER.unpack_from(data, MAGIC_AT)
    if magic != MAGIC:
        raise ValueError("the program has no extended header")
    root = Table(data, struct.unpack_from("<I", data)[0])
    segments = []
    for table in _tables(root, SEGMENTS):
        at = table.Offset(FIRST)
        field = table.Pos + at if at else None
        offset = 0 if field is None else struct.unpack_from("<Q", data, field)[0]
        segments.append(_Segment(offset, table.GetSlot(SECOND, 0, types.Uint64Flags), field))
    constants: list[tuple[int, int]] = []
    at = root.Offset(CONSTANT_SEGMENT)
    if at:
        table = Table(data, root.Indirect(root.Pos + at))
        segment = segments[table.GetSlot(FIRST, 0, types.Uint32Flags)]
        starts = list(_numbers(table, SECOND))
        ends = [*starts[1:], segment.size]
        constants = [
            (segment.offset + start, end - start) for start, end in zip(starts, ends, strict=True)
        ]
    named = [table.GetSlot(SECOND, 0, types.Uint32Flags) for table in _tables(root, NAMED_DATA)]
    return _Layout(base, size, segments, constants, named)


def _tables(owner: Table, slot: int) -> Iterator[Table]:
    at = owner.Offset(slot)
    if at:
        start = owner.Vector(at)
        for index in range(owner.VectorLen(at)):
            yield Table(owner.Bytes, owner.Indirect(start + 4 * index))


def _numbers(owner: Table, slot: int) -> Iterator[int]:
    at = owner.Offset(slot)
    if at:
        start, count = owner.Vector(at), owner.VectorLen(at)
        yield from struct.unpack_from(f"<{count}Q", owner.Bytes, start)


def _copies(data: mmap, layout: _Layout, at_least: int) -> Iterator[tuple[int, int]]:
    """(segment of a named datum, offset of the constant with the same bytes)."""
    for index in dict.fromkeys(layout.named):
        segment = layout.segments[index]
        stored_once = any(offset == segment.offset for offset, _ in layout.constants)
        if segment.size < at_least or stored_once:
            continue
        start = layout.base + segment.offset
        wanted = data[start : start + segment.size]
        for offset, size in layout.constants:
            first = layout.base + offset
            if size >= segment.size and data[first : first + segment.size] == wanted:
                yield index, offset
                break
