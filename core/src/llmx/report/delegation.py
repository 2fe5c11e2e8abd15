"""What the backend took over and what stays with the runtime's own kernels, and why."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen

from llmx.report.origin import Source, source_of
from llmx.report.reasons import REASON, operator_name

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

DELEGATE_CALL = "executorch_call_delegate"
NUMBER = re.compile(r"_\d+$")


@frozen
class OperatorCount:
    """Calls of one operator inside and outside delegated subgraphs, and the bytes that the latter
    read and write for one token."""

    operator: str
    delegated: int
    other: int
    other_bytes: int


@frozen
class OutsideOperator:
    """Calls of an operator that were left outside for one reason and from one line of the model.

    Attributes:
        bytes: what all these calls read and write for one token. A KV cache counts as a whole
            where it is read, and not where it is written in place; of a table, the row counts.
        reason: the partitioner's own words; ``None`` where it gives none.
    """

    operator: str
    calls: int
    bytes: int
    reason: str | None
    source: Source | None


@frozen
class Delegation:
    """Subgraphs handed to the backend, nodes inside them, nodes left outside, and by operator.

    ``outside`` has the costliest first.
    """

    subgraphs: int
    delegated_nodes: int
    other_nodes: int
    operators: tuple[OperatorCount, ...]
    outside: tuple[OutsideOperator, ...]


def count_delegation(graph_module: GraphModule) -> Delegation:
    """Count a lowered graph's nodes as ExecuTorch's developer tools do, the costliest first."""
    # Not by those tools: they bring pandas, a quarter of a second and 66 MB for every export.
    nodes = list(graph_module.graph.nodes)
    subgraphs = [each for each in nodes if _is_delegate(each)]
    delegated = Counter(
        kind
        for each in subgraphs
        for kind in _kinds(getattr(graph_module, each.args[0].target).original_module.graph.nodes)
    )
    other = Counter(_kinds(each for each in nodes if not _is_delegate(each)))
    costs: Counter[str] = Counter()
    for node in _calls(nodes):
        costs[_kind(node)] += _moved_bytes(node)
    rows = (
        OperatorCount(name, delegated[name], other[name], costs[name]) for name in delegated | other
    )
    ordered = sorted(
        rows, key=lambda row: (-row.other_bytes, -(row.delegated + row.other), row.operator)
    )
    return Delegation(
        subgraphs=len(subgraphs),
        delegated_nodes=delegated.total(),
        other_nodes=other.total(),
        operators=tuple(ordered),
        outside=tuple(sorted(_outside(nodes), key=lambda row: (-row.bytes, row.operator))),
    )


def _outside(nodes: Iterable[Node]) -> Iterator[OutsideOperator]:
    found: dict[tuple[str, str | None, Source | None], list[Node]] = defaultdict(list)
    for node in _calls(nodes):
        found[operator_name(node), node.meta.get(REASON), source_of(node)].append(node)
    for (name, reason, source), calls in found.items():
        yield OutsideOperator(
            operator=name,
            calls=len(calls),
            bytes=sum(map(_moved_bytes, calls)),
            reason=reason,
            source=source,
        )


def _kinds(nodes: Iterable[Node]) -> Iterator[str]:
    """What each of the calls is of; one that takes results apart counts, too."""
    return (_kind(node) for node in nodes if node.op == "call_function")


def _kind(node: Node) -> str:
    return NUMBER.sub("", node.name)


def _is_delegate(node: Node) -> bool:
    return node.op == "call_function" and operator_name(node) == DELEGATE_CALL


def _calls(nodes: Iterable[Node]) -> Iterator[Node]:
    """Calls outside of delegates; taking results apart is none."""
    for node in nodes:
        if node.op == "call_function" and node.target is not getitem and not _is_delegate(node):
            yield node


def _moved_bytes(node: Node) -> int:
    if "embedding" in operator_name(node):
        return 2 * _bytes(node.meta.get("val"))
    # What an operator changes in place is among its arguments and its results.
    bases = node.kwargs.get("_all_bases")
    in_place = set(bases) if isinstance(bases, list | tuple) else set()
    read = [each.meta.get("val") for each in node.all_input_nodes if each not in in_place]
    written = [] if in_place else [node.meta.get("val")]
    return sum(_bytes(each) for each in (*read, *written))


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return math.prod(map(_for_one_token, value.shape)) * value.element_size()
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0


def _for_one_token(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return max(0, int(expression.subs(dict.fromkeys(expression.free_symbols, 1))))
