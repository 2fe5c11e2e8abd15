"""Quantizing a model as a graph (pt2e): a backend's quantizer says where, texts say how."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """A weight of the graph: bits of one, how many scales there are, and what gives the floats."""

    bits: int
    scales: int
    floats: Callable[[], Tensor]


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
    restored = integers.floats().reshape(weight.shape)
    norm = float(weight.float().norm())
    error = float((restored.float() - weight.float()).norm()) / norm if norm else 0.0
    return attrs.evolve(
        record,
        bits=integers.bits,
        group=weight.numel() // integers.scales,
        stored_bytes=weight.numel() * integers.bits // 8 + SCALE_BYTES * integers.scales,
        error=error,
    )


def _integer_weights(graph: GraphModule) -> Iterator[tuple[str, _Integers]]:
    """Weights that are dequantized, by the name of the module that computes with them."""
    for node in graph.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if node.op != "call_function" or not stack:
            continue
        name = list(stack.values())[-1][0].removeprefix("L['self'].")
        if _operator(node) not in ("linear", "embedding"):
            continue
        for argument in node.all_input_nodes:
            integers = _integers_behind(argument)
            if integers is not None:
                yield name, integers


def _integers_behind(node: Node) -> _Integers | None:
    """What is dequantized into ``node``, also through the operators in ``FOLLOWED``."""
    while _operator(node) in FOLLOWED and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if not node.args or not _is_constant(node.args[0]):
        return None
    if node.op == "call_module":
        return _unpacked_by_module(node)
    if not _operator(node).startswith("dequantize_"):
        return None
    low, high = [each for each in node.args[1:] if type(each) is int][-2:]
    scales = _tensor_of(node, 1)
    return _Integers(
        bits=math.ceil(math.log2(high - low + 1)),
        scales=1 if scales is None else scales.numel(),
        floats=lambda: _floats(node),
    )


def _unpacked_by_module(node: Node) -> _Integers:
    """A vendor's module makes floats of packed bytes, with scales that it keeps."""
    stored, root = _tensor_of(node, 0), node.graph.owning_module
    assert stored is not None
    assert root is not None
    module = root.get_submodule(str(node.target))
    floats: Tensor = module(stored)
    scales = sum(each.numel() for each in module.buffers() if each.is_floating_point())
    return _Integers(
        bits=stored.nbytes * 8 // floats.numel(), scales=scales, floats=lambda: module(stored)
    )


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
