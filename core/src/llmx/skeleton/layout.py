"""What of a ``.pte`` file may depend on weights: its constants and named data."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

from attrs import frozen

from llmx.pte.layout import read_layout as read_parts
from llmx.skeleton.span import Span


@frozen
class Layout:
    """Parts of a program file.

    Attributes:
        constants: tensors of the program; each span ends where the next begins, padding included.
        named: data by key.
        other: everything else, gaps between segments included.
    """

    constants: Sequence[Span]
    named: Mapping[str, Span]
    other: Sequence[Span]


def read_layout(file: mmap.mmap) -> Layout:
    """Find the parts of a program file that is mapped into memory."""
    parts = read_parts(file)
    segments = [Span(parts.base + each.offset, each.size) for each in parts.segments]
    named = {key: segments[index] for key, index in parts.named}
    # The first entry stands for "no data" and is empty.
    constants = [Span(parts.base + offset, size) for offset, size in parts.constants if size]
    if parts.constant_segment is None:
        constants = []
    return Layout(constants, named, _gaps([*constants, *named.values()], len(file)))


def _gaps(spans: Sequence[Span], length: int) -> list[Span]:
    """What lies between ``spans``, which may repeat."""
    gaps, at = [], 0
    for span in sorted(set(spans), key=lambda each: each.offset):
        if span.offset > at:
            gaps.append(Span(at, span.offset - at))
        at = max(at, span.end)
    if length > at:
        gaps.append(Span(at, length - at))
    return gaps
