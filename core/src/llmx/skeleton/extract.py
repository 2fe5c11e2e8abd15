"""Taking the weights out of a program file."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from llmx.skeleton.layout import Layout, read_layout
from llmx.skeleton.pattern import Pattern
from llmx.skeleton.pieces import DelegateData, pieces_of
from llmx.skeleton.skeleton import BYTES, DESCRIPTION, NoSkeletonError
from llmx.skeleton.span import Span

MAX_PADDING = 64
PIECE = 1 << 24


def write_skeleton(
    program: Path,
    modules: Iterable[tuple[str, nn.Module]],
    delegate_data: DelegateData,
    facts: Mapping[str, Any],
    folder: Path,
) -> None:
    """Take the weights out of a program file and keep the rest in ``folder``.

    Args:
        modules: all that have weights, by name, in the form in which they were lowered.
        delegate_data: the backend's hook.
        facts: what else is known about the program; JSON-able.

    Raises:
        NoSkeletonError: not all weights are found again in the program.
    """
    pattern, sizes = Pattern(), {}
    for name, module in modules:
        pattern.add_form(name, module)
        for piece in pieces_of(name, module, delegate_data):
            pattern.add(piece)
            sizes[piece.name] = len(piece.content)
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        layout = read_layout(mapped)
        data = dict(_data_spans(mapped, layout, pattern, sizes))
        _require_all(pattern, data)
        taken = {span for spans in data.values() for span in spans}
        kept = _without(Span(0, len(mapped)), taken)
        keys = _key_spans(mapped, kept, pattern)
        with (folder / BYTES).open("wb") as out:
            for span in kept:
                out.write(memoryview(mapped)[span.offset : span.end])
        description = {
            "size": len(mapped),
            "kept": _plain(kept),
            "data": {name: _plain(spans) for name, spans in data.items()},
            "keys": {name: _plain(spans) for name, spans in keys.items()},
            "pattern": pattern.summary(),
            "facts": dict(facts),
        }
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")


def _data_spans(
    file: mmap.mmap, layout: Layout, pattern: Pattern, sizes: Mapping[str, int]
) -> Iterator[tuple[str, tuple[Span, ...]]]:
    """Spans whose content is a piece, under the name of the first such piece."""
    view = memoryview(file)
    owners = {found: name for name, found in reversed(pattern.digests.items())}
    lengths = sorted(set(sizes.values()))
    spans: dict[str, set[Span]] = {}
    exact = set(layout.named.values())
    candidates = [
        *((span, [span.length]) for span in exact),
        *((span, _lengths_within(span, lengths, view)) for span in layout.constants),
    ]
    for span, fitting in candidates:
        for length in fitting:
            inner = Span(span.offset, length)
            found = _digest(file, inner)
            if found in owners:
                spans.setdefault(owners[found], set()).add(inner)
                break
    for name, each in spans.items():
        yield name, tuple(sorted(each, key=lambda span: span.offset))
    view.release()


def _digest(file: mmap.mmap, span: Span) -> bytes:
    """SHA-256 of a stretch; little of a long one is in memory at a time."""
    digest = hashlib.sha256()
    for at in range(span.offset, span.end, PIECE):
        digest.update(file[at : min(at + PIECE, span.end)])
        if span.length >= PIECE:
            file.madvise(mmap.MADV_DONTNEED)
    return digest.digest()


def _lengths_within(span: Span, lengths: list[int], view: memoryview) -> list[int]:
    """How long the tensor in ``span`` may be: nothing but zeros follow it."""
    return [
        length
        for length in lengths
        if span.length - MAX_PADDING < length <= span.length
        and not any(view[span.offset + length : span.end])
    ]


def _require_all(pattern: Pattern, data: Mapping[str, object]) -> None:
    """Each module must be there as the backend's data, or as its own tensors."""
    there = {pattern.digests[name] for name in data}
    missing: dict[str, dict[str, bool]] = {}
    for name, found in pattern.digests.items():
        delegated = name in pattern.keys
        module = name.rpartition("|" if delegated else ":")[0]
        form = "data" if delegated else "tensors"
        forms = missing.setdefault(module, {})
        forms[form] = forms.get(form, False) or found not in there
    lost = [module for module, forms in missing.items() if all(forms.values())]
    if lost:
        raise NoSkeletonError(f"the program holds the weights of {lost[0]} in another form")


def _key_spans(
    file: mmap.mmap, kept: Iterable[Span], pattern: Pattern
) -> dict[str, tuple[Span, ...]]:
    """Where keys are spelled out."""
    owners = {key: name for name, key in reversed(pattern.keys.items())}
    taken: set[int] = set()
    found: dict[str, list[Span]] = {}
    contents = [(span.offset, file[span.offset : span.end]) for span in kept]
    # Longest first: one key may be a part of another, as in "scale_<key>".
    for key in sorted(owners, key=len, reverse=True):
        text = key.encode()
        for offset, content in contents:
            at = content.find(text)
            while at >= 0:
                span = Span(offset + at, len(text))
                if span.end not in taken:
                    taken.add(span.end)
                    found.setdefault(owners[key], []).append(span)
                at = content.find(text, at + 1)
    return {name: tuple(spans) for name, spans in found.items()}


def _without(whole: Span, taken: Iterable[Span]) -> list[Span]:
    left, at = [], whole.offset
    for span in sorted(taken, key=lambda each: each.offset):
        if span.offset > at:
            left.append(Span(at, span.offset - at))
        at = max(at, span.end)
    if whole.end > at:
        left.append(Span(at, whole.end - at))
    return left


def _plain(spans: Iterable[Span]) -> list[list[int]]:
    return [[span.offset, span.length] for span in spans]
