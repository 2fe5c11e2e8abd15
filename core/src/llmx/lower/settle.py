"""What waits for no hidden state stands beside what uses it, in every layer alike.

Passes sort a graph by what its nodes wait for: a slice of a layer's weight, say, comes before the
first layer then, and the layers are no longer runs of nodes that repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set

from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from llmx.lower.eager_tensor import layer_of


def settle(program: ExportedProgram) -> None:
    """Move each node that follows from a layer's parameters and caches alone to its first user."""
    graph: Graph = program.graph
    targets = {
        spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target
    }
    floating = _floating(graph, targets)
    place = {node: at for at, node in enumerate(graph.nodes)}
    anchors: dict[Node, Node] = {}
    for node in reversed(floating):
        anchors[node] = min((anchors.get(user, user) for user in node.users), key=place.__getitem__)
    settled: dict[Node, list[Node]] = defaultdict(list)
    for node in floating:
        settled[anchors[node]].append(node)
    for anchor, nodes in settled.items():
        for node in nodes:
            anchor.prepend(node)


def same_value(one: Node, other: Node) -> bool:
    """Whether two nodes are the same operator on the same inputs, delegates aside."""
    if one is other:
        return True
    if one.op != "call_function" or other.op != one.op or other.target != one.target:
        return False
    leaves, shape = pytree.tree_flatten((one.args, one.kwargs))
    others, other_shape = pytree.tree_flatten((other.args, other.kwargs))
    return bool(shape == other_shape) and all(
        same_value(a, b)
        if isinstance(a, Node) and isinstance(b, Node)
        else type(a) is type(b) and bool(a == b)
        for a, b in zip(leaves, others, strict=True)
    )


def _floating(graph: Graph, targets: Mapping[str, str]) -> list[Node]:
    """In order, with the constants that nothing else uses.

    Hidden states follow from what is in no layer, such as the embedding, or from a delegate.
    """
    owned: set[Node] = set()
    waiting: set[Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "placeholder":
            if node.name in targets:
                in_layer = layer_of(targets[node.name]) is not None
                (owned if in_layer else waiting).add(node)
        elif node.op != "call_function" or any(each in waiting for each in inputs):
            waiting.add(node)
        elif node.users and any(each in owned for each in inputs):
            owned.add(node)
    return [
        node
        for node in graph.nodes
        if node.op == "call_function"
        and (node in owned or (not node.all_input_nodes and _used_once(node, owned)))
    ]


def _used_once(node: Node, owned: Set[Node]) -> bool:
    return len(node.users) == 1 and all(user in owned for user in node.users)
