"""What tells developer tools of which layer a node is: module paths and debug handles."""

from __future__ import annotations

import re
from typing import Any

from torch.fx import Graph, Node

HANDLE, MODULES = "debug_handle", "nn_module_stack"
HANDLE_OFFSET = "llmx_handle_offset"
"""By how much handles inside of a delegate are higher than in the graph that it was made from."""
LAYER = re.compile(r"\blayers\.(\d+)\b")


def relabel(node: Node, layers: int, handles: int) -> None:
    """Make of a node's labels those of the node that is so many layers and handles further on."""
    if HANDLE in node.meta:
        node.meta[HANDLE] += handles
    node.meta[HANDLE_OFFSET] = node.meta.get(HANDLE_OFFSET, 0) + handles
    stack = node.meta.get(MODULES)
    if stack:
        node.meta[MODULES] = {
            _further(name, layers): (_further(path, layers), *kind)
            for name, (path, *kind) in stack.items()
        }


def with_handles(graph: Graph, offset: int) -> Graph:
    """A copy of a delegate's graph whose debug handles are higher by ``offset``."""
    if not offset:
        return graph
    copied, made = Graph(), dict[Node, Node]()
    for node in graph.nodes:
        made[node] = copied.node_copy(node, made.__getitem__)
        if HANDLE in node.meta:
            made[node].meta[HANDLE] += offset
    return copied


def _further(path: Any, layers: int) -> Any:
    if not isinstance(path, str):
        return path
    return LAYER.sub(lambda found: f"layers.{int(found[1]) + layers}", path)
