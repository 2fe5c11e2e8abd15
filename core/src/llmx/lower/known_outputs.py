"""Delegates whose outputs are known, so that emitting a program need not trace their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch.export import ExportedProgram
from torch.fx import Graph

from llmx.lower.labels import graph_of


@frozen
class _Traced:
    """In place of a delegate's original program: its graph, and what tracing it would give."""

    graph: Graph
    outputs: list[Any]

    def module(self) -> Callable[..., list[Any]]:
        return lambda *inputs: self.outputs


@contextmanager
def outputs_known(program: ExportedProgram) -> Iterator[None]:
    """Within it, tracing ``program`` takes the outputs of delegates from their nodes.

    The passes of emission trace the program to learn its shapes, and for each delegate ExecuTorch
    then traces the graph that the backend replaced: most of the time of emission, for fake tensors
    that lowering has already left in the node.
    """
    root, originals = program.graph_module, {}
    for node in program.graph.nodes:
        if node.target is executorch_call_delegate:
            name = node.args[0].target
            originals[name] = getattr(root, name)
            graph = graph_of(originals[name], node)
            setattr(root, name, _with_outputs(originals[name], graph, list(node.meta["val"])))
    try:
        yield
    finally:
        for name, module in originals.items():
            setattr(root, name, module)


def _with_outputs(
    module: LoweredBackendModule, graph: Graph, outputs: list[Any]
) -> LoweredBackendModule:
    known = LoweredBackendModule(
        edge_program=_Traced(graph, outputs),
        backend_id=module.backend_id,
        processed_bytes=module.processed_bytes,
        compile_specs=module.compile_specs,
        named_data_store_output=module.named_data_store_output,
    )
    known.meta = module.meta
    return known
