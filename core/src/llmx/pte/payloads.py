"""Delegates' payloads, and the named data that they mention."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from llmx.pte.flatbuffer import Buffer, MalformedError
from llmx.pte.layout import FIRST, INLINE_PAYLOADS, Layout
from llmx.pte.methods import Delegate


@frozen
class DelegateInfo:
    """A delegate's own bytes, and the named data that its payload mentions."""

    backend: str
    payload_bytes: int
    named: frozenset[str]
    compile_specs: tuple[str, ...]


class Payloads:
    """The delegates' payloads, searched for the names of data.

    Attributes:
        sizes: bytes of each datum, in the program or ``elsewhere``.
    """

    def __init__(self, data: Buffer, layout: Layout, elsewhere: Mapping[str, int]) -> None:
        self._data = data
        self._layout = layout
        self._inline = [each.blob(FIRST) for each in layout.root.tables(INLINE_PAYLOADS)]
        inside = {key: layout.segments[segment].size for key, segment in layout.named}
        self.sizes = {**elsewhere, **inside}
        # Longest first: one key may be a part of another.
        keys = sorted(filter(None, self.sizes), key=len, reverse=True)
        self._keys = (
            re.compile(b"|".join(re.escape(key.encode()) for key in keys)) if keys else None
        )

    def describe(self, delegate: Delegate) -> DelegateInfo:
        payload = self._payload(delegate)
        found = set() if self._keys is None else set(self._keys.findall(payload))
        return DelegateInfo(
            backend=delegate.backend,
            payload_bytes=len(payload),
            named=frozenset(key.decode() for key in found),
            compile_specs=delegate.compile_specs,
        )

    def _payload(self, delegate: Delegate) -> bytes:
        held = self._inline if delegate.inline else self._layout.segments
        if delegate.at >= len(held):
            raise MalformedError(f"it refers to payload {delegate.at} of {len(held)}")
        if delegate.inline:
            return self._inline[delegate.at]
        segment = self._layout.segments[delegate.at]
        start = self._layout.base + segment.offset
        return bytes(self._data[start : start + segment.size])
