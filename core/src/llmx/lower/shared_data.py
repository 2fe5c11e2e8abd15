"""Store once what a program holds twice: a delegate's weight that is also a constant.

A ``.pte`` keeps the constants of the portable kernels in one segment and every named datum of a
delegate in one of its own. The runtime reads a segment by its offset and size alone, so that a
datum's segment may lie inside that of the constants.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from mmap import ACCESS_READ, MADV_DONTNEED, mmap
from pathlib import Path
from typing import BinaryIO

from llmx.pte.layout import HEADER, MAGIC, MAGIC_AT, Layout, read_layout

ALIGNMENT = 4096
"""Segments move by multiples of this, so that each stays aligned as it was."""
PIECE = 1 << 24


def store_once(program: Path, *, at_least: int = 1 << 12) -> int:
    """Take named data out of the file that are a constant, byte for byte; the bytes saved.

    Data of fewer than ``at_least`` bytes stay. Only the part before the segments is read into
    memory; the file is replaced by a new one.
    """
    with program.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        layout = _layout(data)
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
    head: bytearray, layout: Layout, found: Mapping[int, int]
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


def _layout(data: mmap) -> Layout:
    if data[MAGIC_AT : MAGIC_AT + len(MAGIC)] != MAGIC:
        raise ValueError("the program has no extended header")
    return read_layout(data)


def _copies(data: mmap, layout: Layout, at_least: int) -> Iterator[tuple[int, int]]:
    """(segment of a named datum, offset of the constant with the same bytes)."""
    for index in dict.fromkeys(index for _, index in layout.named):
        segment = layout.segments[index]
        stored_once = any(offset == segment.offset for offset, _ in layout.constants)
        if segment.size < at_least or stored_once:
            continue
        start = layout.base + segment.offset
        for offset, size in layout.constants:
            if size >= segment.size and _same(data, start, layout.base + offset, segment.size):
                yield index, offset
                break


def _same(data: mmap, first: int, second: int, count: int) -> bool:
    """Whether ``count`` bytes at two places are equal; little of them is in memory at a time."""
    for at in range(0, count, PIECE):
        end = min(at + PIECE, count)
        if data[first + at : first + end] != data[second + at : second + end]:
            return False
        data.madvise(MADV_DONTNEED)
    return True
