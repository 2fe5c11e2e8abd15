"""Which operators of a graph go to a delegate: here matrix products that are large enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch.export import ExportedProgram
from torch.fx import Node

PRODUCTS = ("linear.default", "aten.linear.default")  # before and after the edge dialect


class ProductPartitioner(Partitioner):
    """Each product of at least ``least_weights`` weights becomes a delegate of its own.

    A weight that something else reads too, such as a table that is embedding and head, cannot move
    into a delegate; its product stays.
    """

    def __init__(self, least_weights: int) -> None:
        super().__init__()
        self._least = least_weights

    def ops_to_not_decompose(self, ep: ExportedProgram) -> tuple[list[Any], Callable[[Node], bool]]:
        """Products that are taken come as products; the others as what they consist of."""
        return [torch.ops.aten.linear.default], self._takes

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        specs = {}
        for node in exported_program.graph.nodes:
            if self._takes(node):
                tag = f"product_{len(specs)}"
                node.meta["delegation_tag"] = tag
                specs[tag] = DelegationSpec(XnnpackBackend.__name__, [])
        tag_constant_data(exported_program)
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=specs)

    def _takes(self, node: Node) -> bool:
        if getattr(node.target, "__name__", None) not in PRODUCTS:
            return False
        weight = node.args[1]
        assert isinstance(weight, Node)
        return len(weight.users) == 1 and weight.meta["val"].numel() >= self._least
