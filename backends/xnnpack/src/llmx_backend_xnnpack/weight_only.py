"""8-bit weights with float activations: XNNPACK has the kernels, its partitioner leaves them out.

ExecuTorch's partitioner takes such a layer for a float one and loses its scales. What is used here
beyond its public names is tested in ``tests/backends/test_xnnpack_internals.py``.
"""

from __future__ import annotations

from executorch.backends.xnnpack.partition import config as known
from executorch.backends.xnnpack.utils.quant_utils import is_dequant, tag_as_implicit_q_dq
from torch.export import ExportedProgram
from torch.fx import Node


class LinearConfig(known.LinearConfig):  # type: ignore[misc]
    """Linear layers of every kind, those with dequantized weights and a float input too."""

    def get_deps(self, node: Node, ep: ExportedProgram) -> tuple[bool, list[Node]]:
        """Whether a layer can be delegated, and the nodes that go with it."""
        source, weight = node.args[:2]
        if not is_dequant(weight) or is_dequant(source):
            deps: tuple[bool, list[Node]] = super().get_deps(node, ep)
            return deps
        assert isinstance(weight, Node)
        tag_as_implicit_q_dq(weight)
        return True, [weight, *weight.all_input_nodes]
