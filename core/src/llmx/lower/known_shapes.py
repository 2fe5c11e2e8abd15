"""Composite operators on fake tensors, whose shapes follow from those of an earlier call.

Lowering traces a graph some twenty times, with tensors that have shapes and no data. PyTorch
remembers what a simple operator gives for shapes that it has seen, but runs composite ones in
Python each time: for the roundings of a quantized layer a third of the time of lowering. The table
of an operator's Python kernels is an internal of PyTorch; ``tests/core/test_known_shapes.py`` fails
where that changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import _pytree as pytree

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
NAMESPACE = "torchao"


@contextmanager
def shapes_remembered(*programs: ExportedProgram) -> Iterator[None]:
    """Within it, quantized layers' composite operators of ``programs`` run once for each shape."""
    operators = {
        node.target
        for program in programs
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and node.target.namespace == NAMESPACE
        and node.target.has_kernel_for_dispatch_key(COMPOSITE)
        and COMPOSITE not in node.target.py_kernels
    }
    for operator in operators:
        operator.py_kernels[COMPOSITE] = _Remembering(operator)
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator in operators:
            operator.py_kernels.pop(COMPOSITE, None)
            operator._dispatch_cache.clear()


@define(eq=False)
class _Remembering:
    """An operator's kernel that remembers the shapes of what it gave."""

    operator: Any
    known: dict[Any, Any] = field(factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = pytree.tree_flatten((args, kwargs))
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        # Whoever records what the operator consists of has to see all of it.
        fake = [each for each in tensors if isinstance(each, FakeTensor)]
        if get_proxy_mode() is not None or len(fake) < len(tensors):
            return self._computed(*args, **kwargs)
        # A text for each: numbers may be symbols.
        key = (
            str(structure),
            tuple(_described(each) for each in leaves),
            tuple(id(each.fake_mode) for each in fake),
        )
        if key not in self.known:
            result = self._computed(*args, **kwargs)
            self.known[key] = result
            return result
        return pytree.tree_map_only(FakeTensor, _alike, self.known[key])

    def _computed(self, *args: Any, **kwargs: Any) -> Any:
        return self.operator._op_dk(COMPOSITE, *args, **kwargs)


def _described(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return str(tuple(leaf.shape)), str(leaf.stride()), leaf.dtype, leaf.device
    return type(leaf), str(leaf)


def _alike(tensor: FakeTensor) -> Tensor:
    with tensor.fake_mode:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
