"""Quantizing a model as a graph (pt2e): a backend's quantizer says where, texts say how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from llmx.quantize.account import WeightRecord
from llmx.quiet import native_stderr_captured

Call = tuple[Tensor, ...]
SCALE_BYTES = 4
FOLLOWED = frozenset({"permute", "t", "transpose", "to", "_to_copy", "reshape", "view"})
"""Operators that a weight may pass through on its way to a layer, and still be that weight."""


@frozen
class _Integers:
    """A weight of the graph: its stored tensor, the node that gives floats, and their range."""

    stored: Tensor
    dequantize: Node
    low: int
    high: int

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(self.high - self.low + 1))


def quantize_graph(graph: GraphModule, quantizer: Any, calls: Iterable[Call]) -> GraphModule:
    """``graph`` with its weights as integers, and activations rounded where ``quantizer`` says.

    Follows torchao's ``prepare_pt2e`` and ``convert_pt2e``
    (https://docs.pytorch.org/ao/stable/pt2e_quantization/). What calls write into buffers stays
    there.

    Args:
        graph: a ``torch.export`` program's module.
        quantizer: torchao's ``Quantizer``; or a vendor's own procedure, called with graph and
            calls for the quantized graph.
        calls: arguments of ``graph``, to see the ranges of activations.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with torch.no_grad():
        if callable(quantizer):
            quantized: GraphModule = quantizer(graph, calls)
        else:
            prepared = prepare_pt2e(graph, quantizer)
            for each in calls:
                # The custom operators' eager versions log every call.
                with native_stderr_captured():
                    prepared(*each)
            quantized = convert_pt2e(prepared)
    _drop_unused(quantized)
    return quantized


def rounds_activations(graph: GraphModule) -> bool:
    """Whether more than weights is rounded."""
    return any(
        _operator(node).startswith("quantize_") and not _is_constant(node.args[0])
        for node in graph.graph.nodes
    )


def account_graph(
    records: Sequence[WeightRecord], graph: GraphModule, weights: Mapping[str, Tensor]
) -> list[WeightRecord]:
    """``records`` with what became of the weights in the quantized graph.

    Args:
        weights: the float weights by module name.
    """
    found = dict(_integer_weights(graph))
    return [
        _accounted(each, found[each.name], weights[each.name]) if each.name in found else each
        for each in records
    ]


def _accounted(record: WeightRecord, integers: _Integers, weight: Tensor) -> WeightRecord:
    scales = _tensor_of(integers.dequantize, 1)
    count = scales.numel() if scales is not None else 1
    restored = _floats(integers.dequantize).reshape(weight.shape)
    norm = float(weight.float().norm())
    error = float((restored.float() - weight.float()).norm()) / norm if norm else 0.0
    return attrs.evolve(
        record,
        bits=integers.bits,
        group=weight.numel() // count,
        stored_bytes=weight.numel() * integers.bits // 8 + SCALE_BYTES * count,
        error=error,
    )


def _integer_weights(graph: GraphModule) -> Iterator[tuple[str, _Integers]]:
    """Weights that are dequantized, by the name of the module that computes with them."""
    for node in graph.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op != "call_function" or not stack:
            continue
        name = list(stack.values())[-1][0].removeprefix("L['self'].")
        for argument in node.all_input_nodes:
            source = _origin(argument)
            if source is not None and _operator(node) in ("linear", "embedding"):
                stored = _tensor_of(source, 0)
                assert stored is not None
                low, high = _range(source)
                yield name, _Integers(stored, source, low, high)


def _origin(node: Node) -> Node | None:
    """The node that dequantizes constants, behind the operators in ``FOLLOWED``."""
    while _operator(node) in FOLLOWED and node.all_input_nodes:
        node = node.all_input_nodes[0]
    is_weight = _operator(node).startswith("dequantize_") and _is_constant(node.args[0])
    return node if is_weight else None


def _range(node: Node) -> tuple[int, int]:
    numbers = [each for each in node.args[1:] if type(each) is int]
    return numbers[-2], numbers[-1]


def _floats(node: Node) -> Tensor:
    values = [_tensor_of_argument(node, each) for each in node.args]
    target: Any = node.target
    restored: Tensor = target(*values, **dict(node.kwargs))
    return restored


def _tensor_of(node: Node, index: int) -> Tensor | None:
    value = _tensor_of_argument(node, node.args[index])
    return value if isinstance(value, Tensor) else None


def _tensor_of_argument(node: Node, argument: Any) -> Any:
    if not isinstance(argument, Node):
        return argument
    value: Any = node.graph.owning_module
    for part in str(argument.target).split("."):
        value = getattr(value, part)
    return value


def _is_constant(argument: Any) -> bool:
    return isinstance(argument, Node) and argument.op == "get_attr"


def _operator(node: Node) -> str:
    """The plain name of an operator, without namespace and overload."""
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def _drop_unused(graph: GraphModule) -> None:
    """Forget parameters and buffers that no node reads: the floats of what is integers now."""
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for module_name, module in graph.named_modules():
        for name in [*dict(module.named_parameters(recurse=False))]:
            if ".".join(filter(None, (module_name, name))) not in used:
                delattr(module, name)


def float_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of linear layers and embeddings by module name."""
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
