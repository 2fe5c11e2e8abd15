"""Delegates with the most weights are loaded first; what is executed stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from executorch.exir import schema
from executorch.exir._serialize import _deserialize_pte_binary, _serialize_pte_binary
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile

from llmx.lower.load_order import load_largest_first

DATA = {"small": 100, "head": 9000, "layer": 4000}
PAYLOADS = {"constants": b"none", "first": b"of small", "middle": b"of layer, of small",
            "last": b"of head"}  # fmt: skip
CALLED = ["first", "middle", "constants", "last", "middle"]
DELEGATED, PLAIN = "forward", "get_n_layers"


def plan(name: str, delegates: list[str], called: list[str]) -> schema.ExecutionPlan:
    """A method that calls delegates, the n-th of which has the n-th payload."""
    instructions = [
        schema.Instruction(schema.DelegateCall(delegate_index=delegates.index(each), args=[]))
        for each in called
    ]
    return schema.ExecutionPlan(
        name=name,
        container_meta_type=schema.ContainerMetadata("", ""),
        values=[],
        inputs=[],
        outputs=[],
        chains=[schema.Chain([], [], instructions, None)],
        operators=[],
        delegates=[
            schema.BackendDelegate(
                "Some",
                schema.BackendDelegateDataReference(schema.DataLocation.INLINE, at),
                [schema.CompileSpec("name", each.encode())],
            )
            for at, each in enumerate(delegates)
        ],
        non_const_buffer_sizes=[0],
    )


@pytest.fixture(params=[True, False], ids=["segments", "inline"])
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    store = NamedDataStore()
    for name, size in DATA.items():
        store.add_named_data(name, name[:1].encode() * size, alignment=16)
    delegates = ["first", "constants", "middle", "last"]
    whole = schema.Program(
        version=0,
        execution_plan=[plan(PLAIN, [], []), plan(DELEGATED, delegates, CALLED)],
        constant_buffer=[schema.Buffer(storage=b"")],
        backend_delegate_data=[schema.BackendDelegateInlineData(PAYLOADS[n]) for n in delegates],
        segments=[],
        constant_segment=None,
        mutable_data_segments=None,
        named_data=None,
    )
    file = PTEFile(whole, mutable_data=None, named_data=store.get_named_data_store_output())
    path = tmp_path / "model.pte"
    path.write_bytes(bytes(_serialize_pte_binary(file, extract_delegate_segments=request.param)))
    return path


def loaded_and_called(path: Path) -> tuple[list[tuple[str, bytes]], list[str]]:
    """(name, payload) of the delegates as they are loaded, and names as they are called."""
    content = _deserialize_pte_binary(path.read_bytes()).program
    found = next(each for each in content.execution_plan if each.name == DELEGATED)
    names = [each.compile_specs[0].value for each in found.delegates]
    names = [bytes(each).decode() for each in names]
    payloads = [
        bytes(content.backend_delegate_data[each.processed.index].data) for each in found.delegates
    ]
    calls = [each.instr_args for each in found.chains[0].instructions]
    return list(zip(names, payloads, strict=True)), [names[each.delegate_index] for each in calls]


def test_the_largest_is_loaded_behind_the_first(program: Path) -> None:
    size = program.stat().st_size
    load_largest_first(program)
    loaded, called = loaded_and_called(program)
    assert [name for name, _ in loaded] == ["first", "last", "middle", "constants"]
    assert all(payload == PAYLOADS[name] for name, payload in loaded)
    assert called == CALLED
    assert program.stat().st_size == size


def test_a_second_time_changes_nothing(program: Path) -> None:
    load_largest_first(program)
    content = program.read_bytes()
    load_largest_first(program)
    assert program.read_bytes() == content
