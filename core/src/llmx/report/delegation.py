"""What the backend took over and what stays with the portable kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from torch.fx import GraphModule


@frozen
class OperatorCount:
    """Calls of one operator inside and outside delegated subgraphs."""

    operator: str
    delegated: int
    other: int


@frozen
class Delegation:
    """Subgraphs handed to the backend, nodes inside them, nodes left outside, and by operator."""

    subgraphs: int
    delegated_nodes: int
    other_nodes: int
    operators: tuple[OperatorCount, ...]


def count_delegation(graph_module: GraphModule) -> Delegation:
    """Count a lowered graph's nodes as ExecuTorch's developer tools do."""
    from executorch.devtools.backend_debug import get_delegation_info

    info = get_delegation_info(graph_module)
    rows = (
        OperatorCount(name, each.delegated, each.non_delegated)
        for name, each in info.delegation_by_operator.items()
    )
    ordered = sorted(rows, key=lambda row: (-(row.delegated + row.other), row.operator))
    return Delegation(
        subgraphs=info.num_delegated_subgraphs,
        delegated_nodes=info.num_delegated_nodes,
        other_nodes=info.num_non_delegated_nodes,
        operators=tuple(ordered),
    )
