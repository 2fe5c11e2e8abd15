"""``llmx inspect`` tells what is in any program, and never crashes over a file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir._serialize import _deserialize_pte_binary
from executorch.exir.schema import KernelCall
from torch import nn

from llmx.cli import invoke
from llmx.errors import ArtifactError
from llmx.pte import Contents, read_contents
from llmx.pte.contents import bytes_by_kind

from .conftest import CHUNK, CONTEXT, VOCAB, Model


class Foreign(nn.Module):
    """Nothing like a language model: a counter that is kept, a layer, a shape of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(40, 24)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("table", torch.randn(5, 24))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.add_(1)
        y = self.linear(x)
        return y.sort(dim=-1).values + self.table[0], self.seen * 2


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made with ExecuTorch alone."""
    exported = torch.export.export(Foreign().eval(), (torch.zeros(2, 40),))
    edge = to_edge_transform_and_lower(
        exported,
        partitioner=[XnnpackPartitioner()],
        constant_methods={"author": "somebody", "sizes": [3, 4], "ratio": 0.5, "new": True},
    )
    path = tmp_path_factory.mktemp("foreign") / "foreign.pte"
    path.write_bytes(edge.to_executorch().buffer)
    return path


def test_a_language_models_figures(decoder: Model) -> None:
    contents = read_contents(decoder.program)
    assert contents.metadata["get_max_context_len"] == CONTEXT
    assert contents.metadata["get_eos_ids"] == (2, 0)
    (forward,) = contents.methods
    assert [*map(str, forward.inputs)] == [f"int64[1, ≤{CHUNK}]", "int64[1]"]
    assert [*map(str, forward.outputs)] == [f"float32[1, {VOCAB}]"]
    # 2 layers, keys and values, 2 heads of 8 floats
    assert forward.state.bytes_per_token == 2 * 2 * 2 * 8 * 4
    assert len(forward.state.layers) == 2
    assert len(forward.parts) == 3
    weights = sum(each.numel() * each.element_size() for each in decoder.eager.parameters())
    assert sum(each.constant_bytes for each in forward.parts) == pytest.approx(weights, rel=0.1)


def test_a_foreign_programs_parts_are_those_that_executorch_reads(foreign: Path) -> None:
    contents = read_contents(foreign)
    reference = _deserialize_pte_binary(foreign.read_bytes()).program
    assert contents.metadata == {
        "author": "somebody", "sizes": (3, 4), "ratio": 0.5, "new": True
    }  # fmt: skip
    (forward,) = contents.methods
    plan = next(each for each in reference.execution_plan if each.name == "forward")
    calls: Counter[str] = Counter()
    for instruction in plan.chains[0].instructions:
        if isinstance(instruction.instr_args, KernelCall):
            operator = plan.operators[instruction.instr_args.op_index]
            calls[f"{operator.name}.{operator.overload}".removesuffix(".")] += 1
    assert forward.kernels == calls
    assert calls["aten::sort.values"] == 1
    assert [each.backend for each in forward.delegates] == [each.id for each in plan.delegates]
    assert [*map(str, forward.inputs)] == ["float32[2, 40]"]
    assert [*map(str, forward.outputs)] == ["float32[2, 24]", "float32[3]"]
    assert forward.planned_bytes == sum(plan.non_const_buffer_sizes)


def test_every_byte_of_the_weights_is_found(foreign: Path) -> None:
    contents = read_contents(foreign)
    (forward,) = contents.methods
    named = {name for each in forward.delegates for name in each.named}
    assert named == {each.name for each in contents.segments if each.kind == "named data"}
    by_kind = bytes_by_kind(contents.segments)
    assert by_kind["named data", ""][1] >= (40 * 24 + 24) * 4
    assert by_kind["payload", "XnnpackBackend"][0] == len(forward.delegates)
    assert contents.program_bytes + sum(size for _, size in by_kind.values()) <= contents.bytes


def test_it_is_shown_and_printed_as_json(
    decoder: Model, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (decoder.program, foreign):
        assert invoke(["inspect", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "operator that the runtime brings" in shown
        assert invoke(["inspect", "--json", str(path)]) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert printed["bytes"] == path.stat().st_size
        for operator in printed["methods"][0]["operators"]:
            assert operator["name"] in shown
    assert "2 XnnpackBackend" in shown or "1 XnnpackBackend" in shown


def test_it_imports_neither_torch_nor_the_runtime(foreign: Path) -> None:
    code = (
        "import sys; from llmx.cli import invoke; "
        f"assert invoke(['inspect', {str(foreign)!r}]) == 0; "
        "assert not {'torch', 'executorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an ExecuTorch program"),
        (b"PK\x03\x04 and so on, a zip file", "not an ExecuTorch program"),
        (b"\x10\0\0\0FT01 and so on", "tensor data"),
        (b"\x10\0\0\0BP08 and so on", "bundled program"),
        (b"\x10\0\0\0ET12", "byte 16 is outside"),
    ],
    ids=["empty", "zip", "ptd", "bpte", "head only"],
)
def test_what_is_no_program_is_told_apart(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words) as error:
        read_contents(path)
    assert str(path) in error.value.message


def _read(content: bytes, path: Path) -> Contents | None:
    path.write_bytes(content)
    try:
        return read_contents(path)
    except ArtifactError:
        return None


def test_a_truncated_program_is_refused_wherever_it_ends(foreign: Path, tmp_path: Path) -> None:
    content = foreign.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 200)):
        assert _read(content[:length], tmp_path / "model.pte") is None, length


def test_damage_is_refused_or_harmless(foreign: Path, decoder: Model, tmp_path: Path) -> None:
    chance = random.Random(0)
    refused = 0
    for source in (foreign, decoder.program):
        whole = source.read_bytes()
        graph = read_contents(source).program_bytes
        for _ in range(400):
            content = bytearray(whole)
            for _ in range(chance.choice((1, 4, 32))):
                content[chance.randrange(graph)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            refused += _read(bytes(content), tmp_path / "model.pte") is None
    assert refused > 100
    for _ in range(200):
        noise = bytearray(chance.randbytes(chance.randrange(8, 400)))
        noise[4:8] = b"ET12"
        _read(bytes(noise), tmp_path / "model.pte")


def test_tables_that_lie_on_each_other_do_not_take_forever(tmp_path: Path) -> None:
    """Every one of the many elements of a vector is the same table with the same long text."""
    count = 20_000
    vector = 60
    text = vector + 4 + 4 * count
    table = text + 4 + count
    content = bytearray(table + 16)
    content[0:8] = (12 + 8).to_bytes(4, "little") + b"ET12"
    # The root at 20: its vtable at 40 has named data (field 7) at offset 4.
    content[20:24] = (20 - 40).to_bytes(4, "little", signed=True)
    content[40:60] = b"".join(n.to_bytes(2, "little") for n in (20, 8, *[0] * 7, 4))
    content[24:28] = (vector - 24).to_bytes(4, "little")
    content[vector : vector + 4] = count.to_bytes(4, "little")
    for index in range(count):
        at = vector + 4 + 4 * index
        content[at : at + 4] = (table - at).to_bytes(4, "little")
    content[text : text + 4] = count.to_bytes(4, "little")
    content[table : table + 4] = (-8).to_bytes(4, "little", signed=True)
    content[table + 8 : table + 14] = b"".join(n.to_bytes(2, "little") for n in (6, 8, 4))
    content[table + 4 : table + 8] = ((text - table - 4) % 2**32).to_bytes(4, "little")
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        read_contents(path)
