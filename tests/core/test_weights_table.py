"""``--verbose`` shows what became of every linear and embedding."""

from __future__ import annotations

import io
from typing import Any

from attrs import asdict
from rich.console import Console

from llmx.cli.weights_table import weights_table
from llmx.quantize.account import WeightRecord


def shown(*records: WeightRecord) -> list[list[str]]:
    screen = io.StringIO()
    Console(file=screen, width=200).print(weights_table([asdict(each) for each in records]))
    return [line.split() for line in screen.getvalue().splitlines() if line.strip()]


def record(name: str, **changes: Any) -> WeightRecord:
    values = {"kind": "linear", "elements": 8, "bits": 4, "group": 32, "stored_bytes": 500_000}
    return WeightRecord(name=name, **{**values, **changes})


def test_layers_that_fared_alike_are_one_row_with_their_worst_error() -> None:
    rows = shown(
        record("layers.0.attention.q_proj", error=0.1),
        record("layers.1.attention.q_proj", error=0.2),
        record("layers.2.attention.q_proj", error=0.01, bits=8, group=64),
        record("layers.0.attention_norm", kind="other", group=None),
    )
    assert rows[1:] == [
        ["layers.*.attention.q_proj", "2", "4", "32", "1.00", "15.00%", "20.00%"],
        ["layers.*.attention.q_proj", "1", "8", "64", "0.50", "1.00%", "1.00%"],
    ]


def test_float_layers_and_shared_tables_are_named_as_such() -> None:
    rows = shown(
        record("embedding", kind="embedding", bits=32, group=None),
        record("head", shares="embedding", stored_bytes=0),
    )
    assert rows[1] == ["embedding", "1", "32", "float", "0.50", "0.00%", "0.00%"]
    assert rows[2][:3] == ["head", "(shares", "embedding)"]
