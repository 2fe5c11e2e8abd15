"""Slices of tensors of which other dimensions vary: XNNPACK has them, ExecuTorch leaves them out.

A size of 0 tells XNNPACK to take what a dimension has when it is run. ExecuTorch writes the largest
one instead and therefore delegates no such slice. What is used here beyond its public names is
tested in ``tests/backends/test_xnnpack_internals.py``.
"""

from __future__ import annotations

import logging
from typing import Any

from executorch.backends.xnnpack.operators import node_visitor
from executorch.backends.xnnpack.partition import config as known
from executorch.backends.xnnpack.utils.quant_utils import is_dequant
from executorch.backends.xnnpack.utils.utils import PERM_NCHW_TO_NHWC
from executorch.exir.backend.utils import WhyNoPartition
from torch.export import ExportedProgram
from torch.fx import Node

SLICE = "aten.slice_copy.Tensor"
CHANNELS_LAST = "XNN_NHWC_NODE"
"""How ExecuTorch marks what lies in another order within the delegate."""
why = WhyNoPartition(logger=logging.getLogger(__name__))


class SliceConfig(known.SliceCopyConfig):  # type: ignore[misc]
    """Slices along a dimension of a known size, whatever the others are."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        """Whether the delegate can cut this."""
        source, dim, start, step = _arguments(node)
        if not _varies(node) and not _varies(source):
            return bool(super().check_constraints(node, ep))
        if not self.check_common_constraints(node, ep):
            return False
        sizes = [each.meta["val"].shape[dim] for each in (source, node)]
        known_place = isinstance(start, int) and all(isinstance(each, int) for each in sizes)
        if step != 1 or 0 in sizes or not known_place or is_dequant(source):
            why(node, reason="XNNPACK cuts a stretch of floats whose place is known")
            return False
        return True


# The module that has the class only registers it.
_Known: Any = node_visitor._node_visitor_dict[SLICE]


class SliceVisitor(_Known):  # type: ignore[misc]
    """Writes slices for the delegate, with sizes of 0 where they vary."""

    def define_node(self, node: Node, xnn_graph: Any, *others: Any) -> None:
        """Append the slice to the graph that XNNPACK will be given."""
        super().define_node(node, xnn_graph, *others)
        cut = xnn_graph.xnodes[-1].xnode_union
        sizes = list(node.meta["val"].shape)
        if CHANNELS_LAST in node.meta:
            sizes = [sizes[dim] for dim in PERM_NCHW_TO_NHWC]
        for at, size in enumerate(sizes):
            if not isinstance(size, int):
                cut.sizes[at] = 0


def write_varying_slices() -> None:
    """Have ExecuTorch write slices so."""
    node_visitor.register_node_visitor(SliceVisitor)


def _varies(node: Node) -> bool:
    return not all(isinstance(each, int) for each in node.meta["val"].shape)


def _arguments(node: Node) -> tuple[Node, int, Any, Any]:
    """Source, dimension, start and step of a slice."""
    given: list[Any] = [*node.args]
    source, dim, start, _, step = given + [None, 0, None, None, 1][len(given) :]
    return source, dim, start or 0, step
