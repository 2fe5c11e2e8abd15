"""GELU by tanh stays outside: this ExecuTorch's XNNPACK computes it as the exact one.

The delegate's node has no field for ``approximate``, so that outputs are off by up to 4.7e-4. Later
versions have a node of its own for it (https://github.com/pytorch/executorch/pull/22851);
``tests/backends/test_xnnpack_gelu.py`` fails once the installed one does.
"""

from __future__ import annotations

import logging

from executorch.backends.xnnpack.partition import config as known
from executorch.exir.backend.utils import WhyNoPartition
from torch.export import ExportedProgram
from torch.fx import Node

why = WhyNoPartition(logger=logging.getLogger(__name__))


class GeluConfig(known.GeluConfig):  # type: ignore[misc]
    """The exact GELU; the one by tanh is left to ExecuTorch's own kernels."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        """Whether the delegate computes what the node says."""
        if node.kwargs.get("approximate", "none") != "none":
            why(node, reason="XNNPACK would compute the exact GELU, not the one by tanh")
            return False
        return bool(super().check_constraints(node, ep))
