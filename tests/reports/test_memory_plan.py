"""What lies in memory when, and what makes up the peak."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from llmx import Artifact
from llmx.cli.memory_table import peak_table
from llmx.pte import read_contents
from tests.reports.conftest import LAYERS

CACHE = 64 * 2 * 16 * 4  # tokens, heads, elements, bytes


@pytest.fixture(scope="module")
def trace(told: Artifact) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(
        (told.folder / "memory_profile.json").read_text(encoding="utf-8")
    )["traceEvents"]
    return events


@pytest.fixture(scope="module")
def bars(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in trace if each["ph"] == "X"]


def test_the_plan_is_the_programs(told: Artifact) -> None:
    memory = told.manifest["memory"]
    (method,) = read_contents(told.program).methods
    assert memory["planned_bytes"] == method.planned_bytes
    assert memory["state_bytes"] == LAYERS * 2 * CACHE == method.state.bytes
    assert memory["state_bytes"] < memory["peak_bytes"] <= memory["planned_bytes"]


def test_the_peak_is_the_sum_of_what_lies_there(
    told: Artifact, trace: list[dict[str, Any]], bars: list[dict[str, Any]]
) -> None:
    memory = told.manifest["memory"]
    assert memory["other_tensors"] == 0
    assert sum(each["bytes"] for each in memory["peak_tensors"]) == memory["peak_bytes"]
    curve = [each["args"]["bytes"] for each in trace if each["ph"] == "C"]
    assert len(curve) == memory["steps"]
    assert max(curve) == curve[memory["peak_step"]] == memory["peak_bytes"]
    for step in range(0, len(curve), 7):
        there = [each for each in bars if each["ts"] <= step < each["ts"] + each["dur"]]
        assert sum(each["args"]["bytes"] for each in there) == curve[step]


def test_tensors_that_live_at_once_lie_apart(bars: list[dict[str, Any]]) -> None:
    for one in bars:
        for other in bars:
            if (
                one is other
                or one["pid"] != other["pid"]
                or not overlap(one["ts"], one["dur"], other["ts"], other["dur"])
            ):
                continue
            assert one["tid"] != other["tid"]
            first, second = one["args"], other["args"]
            assert not overlap(
                first["offset"], first["bytes"], second["offset"], second["bytes"]
            ), (one["name"], other["name"])


def overlap(start: int, length: int, other_start: int, other_length: int) -> bool:
    return start < other_start + other_length and other_start < start + length


def test_every_layer_is_told_apart(bars: list[dict[str, Any]]) -> None:
    attention = [each for each in bars if each["cat"] == "custom_sdpa.out"]
    assert [each["args"]["layer"] for each in attention] == list(range(LAYERS))
    assert {each["args"]["source"]["file"] for each in attention} == {"llmx/model/kv_cache.py"}
    caches = Counter(each["args"]["layer"] for each in bars if each["cat"] == "state")
    assert caches == dict.fromkeys(range(LAYERS), 2)
    made = [each["args"]["layer"] for each in bars if each["cat"] == "delegate"]
    in_order = [layer for layer in made if layer is not None]
    assert in_order == sorted(in_order)
    assert set(in_order) == set(range(LAYERS))


def test_the_table_adds_up(told: Artifact) -> None:
    table = peak_table(told.manifest["memory"])
    sizes = [float(cell) for cell in table.columns[2].cells if cell]
    assert sum(sizes[:-1]) == pytest.approx(sizes[-1], abs=0.1 * len(sizes))
    assert "state of all layers" in list(table.columns[3].cells)
