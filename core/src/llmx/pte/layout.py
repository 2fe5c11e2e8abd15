"""Where things are in a ``.pte``: its header, its segments, and what the segments are for.

Format: ExecuTorch's ``schema/program.fbs``, and ``extended_header.h`` for the header in front.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from attrs import frozen

from llmx.pte.flatbuffer import Buffer, MalformedError, Table

IDENTIFIER_AT, IDENTIFIER = 4, b"ET"
OTHER_KINDS = {
    b"FT": "tensor data (.ptd) that belongs to a program",
    b"BP": "a bundled program, which is for ExecuTorch's test tools",
}
MAGIC_AT, MAGIC, HEADER = 8, b"eh00", struct.Struct("<4sIQQQ")
# Fields of Program, and of the tables for segments.
VERSION, PLANS, CONSTANT_BUFFER, INLINE_PAYLOADS, SEGMENTS, CONSTANT_SEGMENT = range(6)
MUTABLE_SEGMENTS, NAMED_DATA = 6, 7
FIRST, SECOND = 0, 1


@frozen
class Segment:
    """A range of the segment data, and where in the file its offset is written."""

    offset: int
    size: int
    field: int | None


@frozen
class Layout:
    """A program's parts.

    Attributes:
        base: where the segment data begin, counted from the file's start.
        size: bytes of segment data, padding included.
        constants: (offset in the segment data, size) of each constant, padding included. The
            first stands for "not a constant".
        constant_segment: index of the segment that holds them; ``None`` if they are inline.
        mutable_segments: indices of the segments with initial values of state.
        named: (key, index of its segment) of what delegates refer to by name.
    """

    root: Table
    base: int
    size: int
    segments: Sequence[Segment]
    constants: Sequence[tuple[int, int]]
    constant_segment: int | None
    mutable_segments: Sequence[int]
    named: Sequence[tuple[str, int]]


def read_layout(data: Buffer) -> Layout:
    """Find the parts of a program.

    Raises:
        MalformedError: it is no program, truncated or damaged.
    """
    head = bytes(data[: MAGIC_AT + HEADER.size])
    found = head[IDENTIFIER_AT : IDENTIFIER_AT + len(IDENTIFIER)]
    if found != IDENTIFIER:
        raise MalformedError(f"it is {OTHER_KINDS.get(found, 'not an ExecuTorch program')}")
    end, base, size = len(data), len(data), 0
    if len(head) == MAGIC_AT + HEADER.size and head[MAGIC_AT : MAGIC_AT + 4] == MAGIC:
        _, _, end, base, size = HEADER.unpack_from(head, MAGIC_AT)
        base = base or end
        if max(end, base + size) > len(data):
            raise MalformedError(
                f"it is truncated: {max(end, base + size)} bytes are announced, "
                f"{len(data)} are there"
            )
    root = Table.root(data, end)
    segments = [
        Segment(each.number(FIRST, "Q"), each.number(SECOND, "Q"), each.field(FIRST))
        for each in root.tables(SEGMENTS)
    ]
    for index, segment in enumerate(segments):
        if base + segment.offset + segment.size > len(data):
            raise MalformedError(f"segment {index} goes past the end")
    constant_segment, constants = _constants(root, segments)
    return Layout(
        root=root,
        base=base,
        size=size,
        segments=segments,
        constants=constants,
        constant_segment=constant_segment,
        mutable_segments=[
            _index(each.number(FIRST, "I"), segments) for each in root.tables(MUTABLE_SEGMENTS)
        ],
        named=[
            (each.text(FIRST), _index(each.number(SECOND, "I"), segments))
            for each in root.tables(NAMED_DATA)
        ],
    )


def _constants(
    root: Table, segments: Sequence[Segment]
) -> tuple[int | None, Sequence[tuple[int, int]]]:
    table = root.table(CONSTANT_SEGMENT)
    starts = () if table is None else table.numbers(SECOND, "Q")
    if table is None or not starts:
        # Older files hold their constants in the flatbuffer itself.
        return None, [(0, each.blob_size(FIRST)) for each in root.tables(CONSTANT_BUFFER)]
    index = _index(table.number(FIRST, "I"), segments)
    segment = segments[index]
    ends = [*starts[1:], segment.size]
    pairs = list(zip(starts, ends, strict=True))
    if any(not start <= stop <= segment.size for start, stop in pairs):
        raise MalformedError("the constants overlap or lie outside of their segment")
    return index, [(segment.offset + start, stop - start) for start, stop in pairs]


def _index(index: int, segments: Sequence[Segment]) -> int:
    if index >= len(segments):
        raise MalformedError(f"it refers to segment {index} of {len(segments)}")
    return index
