"""A delegate's weight that is a constant too is stored once; the file stays a program."""

from __future__ import annotations

from pathlib import Path

import pytest
from executorch.exir._serialize import _deserialize_pte_binary, _serialize_pte_binary
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile
from executorch.exir.schema import Buffer, Program

from llmx.lower.shared_data import store_once

TABLE, OTHER, LAST = bytes(range(256)) * 40, b"o" * 9000, b"l" * 5000


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Constants: nothing, 20 bytes, the table. Named data: other, the table, last."""
    store = NamedDataStore()
    for name, content in {"other": OTHER, "table": TABLE, "last": LAST}.items():
        store.add_named_data(name, content, alignment=16)
    constants = [Buffer(storage=each) for each in (b"", b"c" * 20, TABLE)]
    empty = Program(
        version=0,
        execution_plan=[],
        constant_buffer=constants,
        backend_delegate_data=[],
        segments=[],
        constant_segment=None,
        mutable_data_segments=None,
        named_data=None,
    )
    file = PTEFile(empty, mutable_data=None, named_data=store.get_named_data_store_output())
    path = tmp_path / "model.pte"
    path.write_bytes(bytes(_serialize_pte_binary(file, extract_delegate_segments=True)))
    return path


def contents(path: Path) -> tuple[list[bytes], dict[str, bytes]]:
    """Constants and named data, as ExecuTorch reads them."""
    file = _deserialize_pte_binary(path.read_bytes())
    named = {
        name: file.named_data.buffers[entry.buffer_index]
        for name, entry in file.named_data.pte_data.items()
    }
    return [each.storage for each in file.program.constant_buffer], named


def test_everything_reads_as_before(program: Path) -> None:
    before = contents(program)
    size = program.stat().st_size
    saved = store_once(program)
    assert saved == len(TABLE) // 4096 * 4096 == size - program.stat().st_size
    assert contents(program) == before
    assert before[1] == {"other": OTHER, "table": TABLE, "last": LAST}
    assert program.read_bytes().count(TABLE) == 1
    assert [each.name for each in program.parent.iterdir()] == ["model.pte"]


def test_a_second_time_there_is_nothing_to_do(program: Path) -> None:
    store_once(program)
    content = program.read_bytes()
    assert store_once(program) == 0
    assert program.read_bytes() == content


def test_small_data_stay_where_they_are(program: Path) -> None:
    assert store_once(program, at_least=len(TABLE) + 1) == 0
