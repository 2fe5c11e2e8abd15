"""What PyTorch and ExecuTorch go on holding of a program that is written."""

from __future__ import annotations

from collections.abc import Iterable

from executorch.exir.backend.utils import is_same_node
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def let_go_of(programs: Iterable[ExportedProgram]) -> None:
    """Forget what was worked out about graphs that are done with.

    These caches have nodes and lowered modules among their keys: a few would keep all graphs and
    the weights in their payloads, hundreds of megabytes, while the program itself is run.
    """
    for shapes in {id(each): each for each in _shapes(programs)}.values():
        shapes.fake_tensor_cache.clear()
    FakeTensorMode.cache_clear()
    is_same_node.cache_clear()


def _shapes(programs: Iterable[ExportedProgram]) -> Iterable[ShapeEnv]:
    for program in programs:
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
                yield value.fake_mode.shape_env
