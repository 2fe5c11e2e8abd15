"""What is in program files, for tests that compare them."""

from __future__ import annotations

from pathlib import Path

from executorch.exir._serialize import _deserialize_pte_binary


def methods(program: Path) -> list[str]:
    """Names, in order."""
    file = _deserialize_pte_binary(program.read_bytes())
    return [each.name for each in file.program.execution_plan]


def payloads(program: Path) -> list[bytes]:
    """Of every delegate of ``forward``, in order."""
    file = _deserialize_pte_binary(program.read_bytes())
    delegates = file.program.execution_plan[0].delegates
    data = file.program.backend_delegate_data
    return [bytes(data[each.processed.index].data) for each in delegates]


def named_data(program: Path) -> dict[str, bytes]:
    """The delegates' weights, by key."""
    found = _deserialize_pte_binary(program.read_bytes()).named_data
    return {key: bytes(found.buffers[entry.buffer_index]) for key, entry in found.pte_data.items()}


def same_but_for_debug_handles(one: bytes, other: bytes) -> bool:
    """Handles number the nodes of a graph; copies of a layer have those of the copied one."""
    if len(one) != len(other):
        return False
    words = zip(*(memoryview(each).cast("I") for each in (one, other)), strict=True)
    return len({after - before for before, after in words if before != after}) <= 1
