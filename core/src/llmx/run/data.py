"""The weights that a program has in files beside it, as the runtime's bindings want them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmx.pte.constants import mapped
from llmx.pte.data_files import NamedBytes, find_files, read_keys

ALIGNMENT = 16


@contextmanager
def data_of(program: Path) -> Iterator[Path | None]:
    """The one file with the weights that ``program`` has not itself, or ``None``.

    The bindings take one where devices take several: two become one for as long as this lasts. A
    program that is loaded needs it no longer.

    Raises:
        ArtifactError: a file is missing, or that of another export.
    """
    files = find_files(program)
    if len(files) < 2:
        yield files[0] if files else None
        return
    with tempfile.TemporaryDirectory(prefix="llmx-") as folder:
        joined = Path(folder) / "joined.ptd"
        join_files(files, joined)
        yield joined


def join_files(files: Sequence[Path], target: Path) -> None:
    """Write one data file that holds what ``files`` hold."""
    from executorch.exir._serialize._cord import Cord
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorSerializer

    serializer = FlatTensorSerializer()
    payload = DataPayload([], {})
    buffers: list[bytes] = []
    for path in files:
        keys = read_keys(path)
        held: dict[NamedBytes, int] = {}
        with mapped(path) as data:
            # Shapes are in the part before the data.
            head = data[: min(each.offset for each in keys.values())]
            described = serializer.deserialize(Cord(head)).named_data
            for key, where in keys.items():
                if where not in held:
                    held[where] = len(buffers)
                    buffers.append(data[where.offset : where.offset + where.size])
                payload.named_data[key] = DataEntry(
                    held[where], ALIGNMENT, described[key].tensor_layout
                )
    payload.buffers = buffers
    with target.open("wb") as file:
        serializer.serialize(payload).write_to_file(file)
