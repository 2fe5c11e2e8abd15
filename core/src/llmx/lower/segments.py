"""Where the layers are in a lowered graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from llmx.lower.eager_tensor import layer_of
from llmx.lower.template import IrregularError

BEFORE = -1


@frozen
class Segments:
    """The operators of a graph, by the last layer whose parameters or caches they follow from.

    ``before`` follow from none; ``layers`` has those of each layer, in their order. ``handed_on``
    has what the next layer takes from each, in their order, and ``lasting`` what all layers take
    from the first, such as angles that are computed beside its own.
    """

    before: Sequence[Node]
    layers: Sequence[Sequence[Node]]
    handed_on: Sequence[Sequence[Node]]
    lasting: Sequence[Node]


def segments_of(program: ExportedProgram, count: int) -> Segments:
    """Divide the graph of a lowered program with ``count`` layers.

    Raises:
        IrregularError: a layer has no parameters or caches among the program's inputs, or takes
            something of a layer that is neither the one before it nor the first.
    """
    graph: Graph = program.graph
    owners = _followed_layers(graph, _input_layers(program))
    _claim_what_one_layer_uses(graph, owners)
    before: list[Node] = []
    layers: list[list[Node]] = [[] for _ in range(count)]
    for node in graph.nodes:
        if node.op in ("call_function", "get_attr"):
            owner = owners[node]
            (before if owner == BEFORE else layers[owner]).append(node)
    missing = next((at for at, nodes in enumerate(layers) if not nodes), None)
    if missing is not None:
        raise IrregularError(f"layer {missing} of the lowered template has no inputs of its own")
    steps = {node: _steps(node, owners) for nodes in layers for node in nodes}
    lasting = [node for node in layers[0] if steps[node] - {0, 1}]
    if any(steps[node] - {0, 1} for nodes in layers[1:] for node in nodes):
        raise IrregularError("a layer reaches back over more than the one before it")
    handed_on = [
        [node for node in nodes if 1 in steps[node] and node not in lasting] for nodes in layers
    ]
    return Segments(before, layers, handed_on, lasting)


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


def _input_layers(program: ExportedProgram) -> Mapping[str, int]:
    specs: Any = program.graph_signature.input_specs
    found = {spec.arg.name: layer_of(spec.target) for spec in specs if spec.target}
    return {name: layer for name, layer in found.items() if layer is not None}


def _followed_layers(graph: Graph, inputs: Mapping[str, int]) -> dict[Node, int]:
    owners: dict[Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            owners[node] = inputs.get(node.name, BEFORE)
        else:
            owners[node] = max((owners[each] for each in node.all_input_nodes), default=BEFORE)
    return owners


def _steps(node: Node, owners: Mapping[Node, int]) -> set[int]:
    """How many layers later a value is used."""
    return {owners[user] - owners[node] for user in node.users if user.op != "output"}


def _claim_what_one_layer_uses(graph: Graph, owners: dict[Node, int]) -> None:
    """Give a layer what it makes of nothing, or of what all layers share, for itself alone.

    Those are a delegate's payload, constants, and shapes of angles and places: every layer has its
    own of them, and the first one's are told from what leads to it by where they stand.
    """
    place = {node: at for at, node in enumerate(graph.nodes)}
    begins: dict[int, int] = {}
    for node, owner in owners.items():
        if node.op == "call_function":
            begins.setdefault(owner, place[node])
    for node in reversed(graph.nodes):
        if owners[node] != BEFORE or node.op not in ("call_function", "get_attr") or not node.users:
            continue
        users = {owners[user] for user in node.users}
        if len(users) != 1 or any(user.op == "output" for user in node.users):
            continue
        (owner,) = users
        if owner != BEFORE and (not node.all_input_nodes or place[node] > begins[owner]):
            owners[node] = owner
