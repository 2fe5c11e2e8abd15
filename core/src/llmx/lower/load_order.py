"""In which order the runtime loads a program's delegates: the one with the most weights first.

A backend may need a delegate's weights twice while it loads them, in the file's form and in its
own. At the end of loading, when everything else is in memory, that should be as little as
possible; the last delegate of a model has its head, which is the largest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from llmx.pte.flatbuffer import OFFSET, Table
from llmx.pte.layout import PLANS, read_layout
from llmx.pte.methods import CALLED, DELEGATE_CALL, DELEGATES, calls, delegate
from llmx.pte.payloads import Payloads

INDEX = struct.Struct("<i")


def load_largest_first(program: Path) -> None:
    """Order each method's delegates by the bytes of named data that their payloads mention.

    What is executed stays as it is, and so does the first delegate: calls of it do not store its
    number, which is 0.
    """
    with program.open("r+b") as file:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            layout = read_layout(data)
            payloads = Payloads(data, layout, {})
            changes = [
                change for plan in layout.root.tables(PLANS) for change in _changes(plan, payloads)
            ]
        for at, content in changes:
            file.seek(at)
            file.write(content)


def _changes(plan: Table, payloads: Payloads) -> Iterator[tuple[int, bytes]]:
    """What to write where in the file."""
    tables = list(plan.tables(DELEGATES))
    named = [payloads.describe(delegate(each)).named for each in tables]
    sizes = [sum(payloads.sizes[key] for key in each) for each in named]
    order = sorted(range(len(tables)), key=lambda each: (each > 0, -sizes[each]))
    for place, index in zip(plan.places(DELEGATES), order, strict=True):
        yield place, OFFSET.pack(tables[index].position - place)
    for kind, call in calls(plan):
        at = call.field(CALLED)
        if kind == DELEGATE_CALL and at is not None:
            yield at, INDEX.pack(order.index(call.number(CALLED, "i")))
