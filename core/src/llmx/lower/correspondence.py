"""Whether two segments of a lowered graph are the same but for the layers that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from llmx.lower.eager_tensor import in_layer, layer_of
from llmx.lower.payload import same_but_for_keys
from llmx.lower.segments import Segments, same_value


def form(node: Node) -> tuple[Any, ...]:
    """What kind of value a node gives."""
    value = node.meta.get("val")
    return str(getattr(value, "shape", None)), getattr(value, "dtype", type(value))


@define
class Correspondence:
    """Compares segments of one ``program``; ``targets`` tells what its inputs are, by name."""

    program: ExportedProgram
    segments: Segments
    targets: Mapping[str, str]
    before: frozenset[Node] = field(init=False)
    held: Mapping[str, Any] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.before = frozenset(self.segments.before)
        self.held = {**self.program.constants, **self.program.state_dict}

    def holds(self, earlier: int, later: int) -> bool:
        """Whether the segments of two places are the same.

        Behind the last layer's may be more, which is the end of the model.
        """
        first, second = self.segments.layers[earlier], self.segments.layers[later]
        pairs = dict(zip(first, second, strict=False))
        last = later == len(self.segments.layers) - 1
        return (len(first) <= len(second) if last else len(first) == len(second)) and all(
            self._same(one, other, earlier, later, pairs) for one, other in pairs.items()
        )

    def _same(
        self, one: Node, other: Node, earlier: int, later: int, pairs: Mapping[Node, Node]
    ) -> bool:
        if one.op != other.op:
            return False
        if one.op == "get_attr":
            root = self.program.graph_module
            return same_but_for_keys(*(getattr(root, str(each.target)) for each in (one, other)))
        if one.target != other.target:
            return False
        leaves, shape = pytree.tree_flatten((one.args, one.kwargs))
        others, other_shape = pytree.tree_flatten((other.args, other.kwargs))
        return bool(shape == other_shape) and all(
            self._same_argument(a, b, earlier, later, pairs)
            for a, b in zip(leaves, others, strict=True)
        )

    def _same_argument(
        self, one: Any, other: Any, earlier: int, later: int, pairs: Mapping[Node, Node]
    ) -> bool:
        if not isinstance(one, Node) or not isinstance(other, Node):
            return type(one) is type(other) and bool(one == other)
        if one.op == "placeholder" or other.op == "placeholder":
            return self._same_input(one, other, later - earlier)
        if one in pairs:
            return pairs[one] is other
        if one in self.segments.lasting:
            return one is other
        if other in self.before:
            return one in self.before and same_value(one, other)
        return self._handed_on(one, other, earlier, later)

    def _handed_on(self, one: Node, other: Node, earlier: int, later: int) -> bool:
        """Both come from the layer before, or for the first layers from before all."""
        given = self.segments.handed_on[later - 1]
        taken = self.segments.handed_on[earlier - 1] if earlier else ()
        if other not in given:
            return False
        if len(taken) == len(given):
            return one in taken and taken.index(one) == given.index(other)
        return earlier <= 1 and (one in self.before or one in taken) and form(one) == form(other)

    def _same_input(self, one: Node, other: Node, shift: int) -> bool:
        if one is other:
            return True
        first, second = self.targets.get(one.name), self.targets.get(other.name)
        if first is None or second is None:
            return False
        layer = layer_of(first)
        if layer is not None:
            return second == in_layer(first, layer + shift)
        if layer_of(second) is not None:
            return False
        return torch.equal(self.held[first], self.held[second])
