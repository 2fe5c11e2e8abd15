"""What was left outside of delegates: how often, at what cost, from which line, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llmx
from llmx import Artifact
from llmx.cli.summary import print_summary
from llmx.lower.program import lower
from llmx.report.delegation import count_delegation
from tests.reports.conftest import LAYERS

SOURCES = Path(llmx.__file__).parents[1]


@pytest.fixture
def outside(told: Artifact) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = told.manifest["delegation"]["outside"]
    return rows


def named(rows: list[dict[str, Any]], operator: str) -> list[dict[str, Any]]:
    return [each for each in rows if operator in each["operator"]]


def test_every_call_outside_is_told_but_taking_results_apart(
    told: Artifact, outside: list[dict[str, Any]]
) -> None:
    delegation = told.manifest["delegation"]
    taking_apart = next(
        each["other"] for each in delegation["operators"] if each["operator"] == "getitem"
    )
    assert sum(each["calls"] for each in outside) == delegation["other_nodes"] - taking_apart


def test_the_line_is_that_of_the_model(outside: list[dict[str, Any]]) -> None:
    found = [each["source"] for each in outside if each["source"] is not None]
    assert len(found) >= len(outside) - 1
    for source in found:
        lines = (SOURCES / source["file"]).read_text().splitlines()
        assert source["code"] in lines[source["line"] - 1]


def test_repeated_layers_count(outside: list[dict[str, Any]]) -> None:
    (attention,) = named(outside, "custom_sdpa")
    assert attention["calls"] == LAYERS
    assert attention["source"]["file"] == "llmx/model/kv_cache.py"


def test_the_partitioner_gives_its_own_reason(outside: list[dict[str, Any]]) -> None:
    (addition,) = named(outside, "aten.add.Tensor")  # of positions, which are integers
    assert addition["reason"] == "invalid dtype"
    (attention,) = named(outside, "custom_sdpa")
    assert attention["reason"] == "the partitioner has no rule for this operator"


def test_cost_is_what_is_read_and_written_for_one_token(outside: list[dict[str, Any]]) -> None:
    (attention,) = named(outside, "custom_sdpa")
    query = result = 4 * 16 * 4  # heads, elements, bytes
    caches = 2 * 64 * 2 * 16 * 4  # of keys and values: tokens, heads, elements, bytes
    assert attention["bytes"] == LAYERS * (query + caches + result)
    (table,) = named(outside, "embedding")
    assert table["bytes"] == 2 * 64 * 4  # a row, not the table
    costs = [each["bytes"] for each in outside]
    assert costs == sorted(costs, reverse=True)


def test_verbose_shows_both_tables(told: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    from llmx.cli.console import stdout

    print_summary(stdout(), told, verbose=True)
    printed = capsys.readouterr().out
    (line,) = [each for each in printed.splitlines() if each.startswith("llama.custom_sdpa")]
    assert "llmx/model/kv_cache.py:" in line
    assert line.rstrip().endswith("no rule for this operator")
    totals = next(each for each in printed.splitlines() if each.startswith("total "))
    delegation = told.manifest["delegation"]
    assert totals.split()[1:3] == [
        str(delegation["delegated_nodes"]),
        str(delegation["other_nodes"]),
    ]


def test_counts_are_those_of_executorchs_developer_tools() -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            counted = self.linear(self.linear(x).cumsum(0)) + 1
            return counted.topk(2)

    program = torch.export.export(Model(), (torch.ones(3, 8),), strict=False)
    graph_module = lower(program, [XnnpackPartitioner()], [], {}).exported_program().graph_module
    found, wanted = count_delegation(graph_module), get_delegation_info(graph_module)
    assert found.subgraphs == wanted.num_delegated_subgraphs == 2
    assert found.delegated_nodes == wanted.num_delegated_nodes > 0
    assert found.other_nodes == wanted.num_non_delegated_nodes > 2
    assert {each.operator: (each.delegated, each.other) for each in found.operators} == {
        name: (each.delegated, each.non_delegated)
        for name, each in wanted.delegation_by_operator.items()
    }
