"""What tells developer tools of which layer a node is: module paths and debug handles."""

from __future__ import annotations

from typing import Any

from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch.fx import Graph, Node

from llmx.report.origin import LAYER

HANDLE, MODULES = "debug_handle", "nn_module_stack"
OFFSETS = "llmx_offsets"
"""How many layers and handles a delegate is further on than the graph that it was made from."""


def relabel(node: Node, layers: int, handles: int) -> None:
    """Make of a node's labels those of the node that is so many layers and handles further on."""
    if HANDLE in node.meta:
        node.meta[HANDLE] += handles
    before = node.meta.get(OFFSETS, (0, 0))
    node.meta[OFFSETS] = (before[0] + layers, before[1] + handles)
    stack = node.meta.get(MODULES)
    if stack:
        node.meta[MODULES] = {
            _further(name, layers): (_further(path, layers), *kind)
            for name, (path, *kind) in stack.items()
        }


def graph_of(delegate: LoweredBackendModule, call: Node) -> Graph:
    """The graph that a delegate was made from, with the labels that belong to this call."""
    graph: Graph = delegate.original_module.graph
    layers, handles = call.meta.get(OFFSETS, (0, 0))
    if not layers and not handles:
        return graph
    copied, made = Graph(), dict[Node, Node]()
    for node in graph.nodes:
        made[node] = copied.node_copy(node, made.__getitem__)
        relabel(made[node], layers, handles)
    return copied


def _further(path: Any, layers: int) -> Any:
    if not isinstance(path, str):
        return path
    return LAYER.sub(lambda found: f"layers.{int(found[1]) + layers}", path)
