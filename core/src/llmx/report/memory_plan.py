"""The memory plan of a program: which tensors lie where, from when to when, and its peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen
from executorch.exir import ExecutorchProgramManager, memory
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.memory_planning import get_node_tensor_specs
from executorch.exir.tensor import num_bytes_from_shape_and_dtype
from torch.fx import Graph, Node

from llmx.report.origin import Source, layer_of, module_of, source_of

METHOD = "forward"
DELEGATE, STATE = "delegate", "state"


@frozen
class PlannedTensor:
    """A tensor that the plan has a place for.

    Attributes:
        name: of the node that makes it.
        operator: what makes it: an operator, ``delegate``, or ``state`` for what survives calls.
        bytes: for the longest input.
        first, last: step that makes it and step that needs it last.
        buffer, offset: where it lies, ``offset`` in bytes.
        module: path of the module that computes it; may be empty.
    """

    name: str
    operator: str
    bytes: int
    first: int
    last: int
    buffer: int
    offset: int
    layer: int | None
    module: str
    source: Source | None


@frozen
class MemoryPlan:
    """Tensors in the order in which they are made.

    Attributes:
        planned_bytes: of all buffers.
        steps: number of steps of the program.
    """

    planned_bytes: int
    steps: int
    tensors: tuple[PlannedTensor, ...]

    def live_bytes(self) -> list[int]:
        """Bytes of the tensors that are needed at each step."""
        changes = [0] * (self.steps + 1)
        for each in self.tensors:
            changes[each.first] += each.bytes
            changes[min(each.last, self.steps - 1) + 1] -= each.bytes
        live, total = [], 0
        for change in changes[:-1]:
            total += change
            live.append(total)
        return live

    def peak(self) -> tuple[int, list[PlannedTensor]]:
        """The step at which most is needed, and what is needed there, the largest first."""
        live = self.live_bytes()
        step = max(range(len(live)), key=live.__getitem__, default=0)
        there = [each for each in self.tensors if each.first <= step <= each.last]
        return step, sorted(there, key=lambda each: -each.bytes)


def read_memory_plan(program: ExecutorchProgramManager) -> MemoryPlan:
    """The plan of a finished program's ``forward``."""
    exported = program.exported_program(METHOD)
    state = {
        name
        for name, target in exported.graph_signature.inputs_to_buffers.items()
        if target in exported.graph_signature.buffers_to_mutate.values()
    }
    nodes = list(exported.graph.nodes)
    plan = next(each for each in program.executorch_program.execution_plan if each.name == METHOD)
    return MemoryPlan(
        planned_bytes=sum(plan.non_const_buffer_sizes),
        steps=len(nodes),
        tensors=tuple(_tensors(nodes, exported.graph_module, state)),
    )


def _tensors(nodes: Sequence[Node], root: Any, state: set[str]) -> Iterator[PlannedTensor]:
    lines: dict[int, Source] = {}
    for node in nodes:
        source = source_of(node)
        for spec in _specs(node):
            if source is not None:
                lines.setdefault(id(spec), source)
    seen: set[int] = set()
    for node in nodes:
        for at, spec in enumerate(_specs(node)):
            if id(spec) in seen:
                continue
            seen.add(id(spec))
            module = _cache_layer(node) or _module(node, at, root)
            first, last = spec.lifetime
            yield PlannedTensor(
                name=node.name,
                operator=STATE if node.name in state else _operator(node),
                bytes=num_bytes_from_shape_and_dtype(spec.shape, spec.dtype),
                first=first,
                last=last,
                buffer=spec.mem_id,
                offset=spec.mem_offset,
                layer=layer_of(module),
                module=module,
                source=lines.get(id(spec)),
            )


def _specs(node: Node) -> list[Any]:
    """Tensors that a node makes and the plan has a place for."""
    if node.op == "output" or node.target in (memory.alloc, memory.view):
        return []
    return [
        spec
        for spec in get_node_tensor_specs(node)
        if spec.mem_id is not None and not spec.const and spec.lifetime[0] is not None
    ]


def _operator(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.target is executorch_call_delegate:
        return DELEGATE
    return str(getattr(node.target, "__name__", node.target))


def _module(node: Node, at: int, root: Any) -> str:
    if node.target is not executorch_call_delegate:
        return module_of(node)
    delegate: Any = node.args[0]
    graph: Graph = getattr(root, delegate.target).original_module.graph
    results: Any = graph.output_node().args[0]
    return module_of(results[at]) if at < len(results) else ""


def _cache_layer(node: Node) -> str:
    """Of a cache, the layer, which its placeholder's name tells."""
    name = node.name.removeprefix("b_")
    if node.op != "placeholder" or not name.startswith("layers_"):
        return ""
    return ".".join(name.split("_", 2)[:2])
