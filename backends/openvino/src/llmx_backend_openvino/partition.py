"""ExecuTorch's partitioner for OpenVINO, with what its runtime cannot take left out."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

TAG = "delegation_tag"
READ = "_local_scalar_dense"


def partitioner(device: str) -> Any:
    """An ``OpenvinoPartitioner`` for CPU, GPU or NPU."""
    from executorch.backends.openvino.partitioner import OpenvinoPartitioner
    from executorch.exir.backend.backend_details import CompileSpec

    class NumbersOutside(OpenvinoPartitioner):  # type: ignore[misc]
        """Leaves numbers that the program itself reads outside: they would be outputs of rank 0.

        The runtime's delegate fails on those. What it prints of other operators is kept quiet.
        """

        def partition(self, exported_program: Any) -> Any:
            with redirect_stdout(io.StringIO()):
                result = super().partition(exported_program)
            for node in exported_program.graph.nodes:
                if node.users and all(READ in str(each.target) for each in node.users):
                    node.meta.pop(TAG, None)
            return result

    return NumbersOutside([CompileSpec("device", device.encode())])
