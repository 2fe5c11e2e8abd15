"""Nodes that follow from a layer's parameters alone come to stand in their layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from llmx.lower.settle import same_value, settle


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * self.weight[:, 0] + torch.zeros(())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, 4, bias=False)
        self.layers = nn.ModuleList(Scaled() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return x


def lifted_to_the_front() -> ExportedProgram:
    """A graph as passes leave it that sort by what nodes wait for: selections first."""
    program = torch.export.export(Model(), (torch.randn(1, 4),))
    graph = program.graph
    first = next(node for node in graph.nodes if node.op == "call_function")
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.select.int:
            first.prepend(node)
    graph.lint()
    return program


def operators(program: ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_layers_are_equal_runs_of_nodes_again() -> None:
    program = lifted_to_the_front()
    assert operators(program)[:3] == ["aten.select.int"] * 3
    x = torch.randn(1, 4)
    expected = program.module()(x)
    settle(program)
    program.graph.lint()
    program.graph_module.recompile()
    found = operators(program)[1:]
    size = len(found) // 3
    assert found[:size] == found[size : 2 * size] == found[2 * size :]
    torch.testing.assert_close(program.module()(x), expected)


def test_equal_nodes_are_told_from_others() -> None:
    graph = torch.export.export(Model(), (torch.randn(1, 4),)).graph
    zeros = [node for node in graph.nodes if "zeros" in str(node.target)]
    selected = [node for node in graph.nodes if node.target is torch.ops.aten.select.int]
    assert same_value(zeros[0], zeros[1])
    assert not same_value(selected[0], selected[1])  # of different weights
    assert not same_value(zeros[0], selected[0])
