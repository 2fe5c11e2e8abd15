"""Lower a few layers and repeat the middle ones: equal layers lower to equal programs.

A template of three layers is lowered, or more if several kinds of layers take turns. Its graph is
a prefix, two runs of nodes that are the same but for the layers that they belong to (the *units*,
each of one *period* of layers), and a suffix. The second unit is copied for every further period,
with those layers' caches and parameters as inputs and their weights in the delegates' payloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import define, field, frozen
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from llmx.lower.eager_tensor import in_layer, layer_of, tensor_of
from llmx.lower.labels import relabel
from llmx.lower.payload import (
    DelegateData,
    LayerData,
    rekeyed,
    roles_in_layers,
    roles_of_pair,
    same_but_for_keys,
)
from llmx.lower.settle import same_value, settle
from llmx.lower.template import IrregularError, Template
from llmx.spool import Spool


def replicate(
    program: ExportedProgram,
    template: Template,
    layers: Sequence[nn.Module],
    delegate_data: DelegateData,
    spool: Spool,
) -> ExportedProgram:
    """The lowered program of all ``layers``, from that of the first ones.

    Args:
        program: the lowered ``template``; it is taken apart.
        layers: all layers of the eager model, the template's first.
        delegate_data: the backend's hook.
        spool: where the payloads' weights wait until the program is written.

    Raises:
        IrregularError: the template's layers did not lower to the same program; nothing is lost
            but the template.
    """
    data = LayerData.collect(layers, delegate_data, spool)
    settle(program)
    return _Replication(program, template.period, template.layers, layers, data).run()


@frozen
class _Units:
    """Positions of the two units in the list of nodes: [start, middle) and [middle, end)."""

    start: int
    length: int

    @property
    def middle(self) -> int:
        return self.start + self.length

    @property
    def end(self) -> int:
        return self.start + 2 * self.length


@define
class _Replication:
    program: ExportedProgram
    period: int
    lowered: int
    """How many layers the template has."""
    layers: Sequence[nn.Module]
    data: LayerData
    nodes: list[Node] = field(init=False)
    position: dict[Node, int] = field(init=False)
    targets: dict[str, str] = field(init=False)
    placeholders: dict[str, Node] = field(init=False)
    new_inputs: dict[str, list[InputSpec]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        graph, signature = self.program.graph, self.program.graph_signature
        self.nodes = [node for node in graph.nodes if node.op in ("call_function", "get_attr")]
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.targets = {
            spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None
        }
        by_name = {node.name: node for node in graph.nodes if node.op == "placeholder"}
        self.placeholders = {target: by_name[name] for name, target in self.targets.items()}

    @property
    def graph(self) -> Graph:
        graph: Graph = self.program.graph
        return graph

    def run(self) -> ExportedProgram:
        units = self._find_units()
        self._add_placeholders()
        copies = self._copy_units(units)
        self._redirect_suffix(units, copies)
        signature = self._signature(units, copies)
        self.graph.lint()
        self.program.graph_module.recompile()
        return ExportedProgram(
            root=self.program.graph_module,
            graph=self.graph,
            graph_signature=signature,
            state_dict=self.program.state_dict,
            range_constraints=self.program.range_constraints,
            module_call_graph=self.program.module_call_graph,
            constants=self.program.constants,
            verifiers=[self.program.verifier],
        )

    # Where the layers are in the template.

    def _find_units(self) -> _Units:
        first = self._first_use(self.lowered - 2 * self.period)
        length = self._first_use(self.lowered - self.period) - first
        for start in range(max(first - length + 1, 1), first + 1):
            units = _Units(start, length)
            if units.end <= len(self.nodes) and self._repeats(units):
                return units
        raise IrregularError("the layers of the lowered template do not repeat")

    def _first_use(self, layer: int) -> int:
        uses = [
            self.position[user]
            for target, node in self.placeholders.items()
            if layer_of(target) == layer
            for user in node.users
            if user in self.position
        ]
        if not uses:
            raise IrregularError(f"layer {layer} of the lowered template has no inputs of its own")
        return min(uses)

    def _repeats(self, units: _Units) -> bool:
        return all(
            self._corresponds(self.nodes[at], self.nodes[at + units.length], units)
            for at in range(units.start, units.middle)
        )

    def _corresponds(self, first: Node, second: Node, units: _Units) -> bool:
        if first.op != second.op:
            return False
        if first.op == "get_attr":
            modules = self._module(first), self._module(second)
            return all(isinstance(each, LoweredBackendModule) for each in modules) and (
                same_but_for_keys(*modules)
            )
        if first.target != second.target:
            return False
        leaves, shape = pytree.tree_flatten((first.args, first.kwargs))
        others, other_shape = pytree.tree_flatten((second.args, second.kwargs))
        return shape == other_shape and all(
            self._same_argument(one, other, units)
            for one, other in zip(leaves, others, strict=True)
        )

    def _same_argument(self, one: Any, other: Any, units: _Units) -> bool:
        if not isinstance(one, Node) or not isinstance(other, Node):
            return type(one) is type(other) and bool(one == other)
        if one.op == "placeholder" or other.op == "placeholder":
            return self._same_input(one, other)
        before, after = self.position[one], self.position[other]
        if after < units.start:
            return before < units.start and same_value(one, other)
        # Within the unit, or from the one before; the first unit has the prefix before it.
        return after == before + units.length or before < units.start <= after < units.middle

    def _same_input(self, one: Node, other: Node) -> bool:
        if one is other:
            return True
        first, second = self.targets.get(one.name), self.targets.get(other.name)
        if first is None or second is None:
            return False
        layer = layer_of(first)
        if layer is not None:
            return second == in_layer(first, layer + self.period)
        if layer_of(second) is not None:
            return False
        return torch.equal(self._tensor(first), self._tensor(second))

    # New inputs.

    def _add_placeholders(self) -> None:
        for target, node in list(self.placeholders.items()):
            last = layer_of(target)
            if last is None or last < self.lowered - self.period:
                continue
            spec = self._spec(target)
            holder = self._holder(target)
            if not torch.equal(holder[target], self._eager_tensor(target)):
                raise IrregularError(f"{target} was changed while it was lowered")
            after, added = node, []
            for layer in range(last + self.period, len(self.layers), self.period):
                new_target = in_layer(target, layer)
                with self.graph.inserting_after(after):
                    new = self.graph.placeholder(node.name.replace(f"_{last}_", f"_{layer}_", 1))
                new.meta = dict(node.meta)
                holder[new_target] = _as(holder[target], self._eager_tensor(new_target))
                added.append(
                    InputSpec(
                        kind=spec.kind,
                        arg=TensorArgument(name=new.name),
                        target=new_target,
                        persistent=spec.persistent,
                    )
                )
                self.placeholders[new_target] = new
                self.targets[new.name] = new_target
                after = new
            self.new_inputs[target] = added

    def _spec(self, target: str) -> InputSpec:
        specs = self.program.graph_signature.input_specs
        found: InputSpec = next(spec for spec in specs if spec.target == target)
        return found

    def _holder(self, target: str) -> dict[str, Any]:
        named: dict[str, Any] = self.program.state_dict
        lifted: dict[str, Any] = self.program.constants
        return named if target in named else lifted

    def _tensor(self, target: str) -> Tensor:
        tensor: Tensor = self._holder(target)[target]
        return tensor

    def _eager_tensor(self, target: str) -> Tensor:
        tensor = tensor_of(self.layers, target)
        if tensor is None:
            raise IrregularError(f"{target} is no tensor of the eager model")
        return tensor

    def _module(self, node: Node) -> Any:
        return getattr(self.program.graph_module, str(node.target))

    # Copies of the second unit, and the suffix behind them.

    def _copy_units(self, units: _Units) -> list[Mapping[Node, Node]]:
        """For every further period, which node of the second unit became which new one."""
        template = self.nodes[units.middle : units.end]
        roles = {
            node: roles_of_pair(
                self._module(self.nodes[self.position[node] - units.length]),
                self._module(node),
                self.period,
                self.data,
            )
            for node in template
            if node.op == "get_attr"
        }
        previous: Mapping[Node, Node] = {node: node for node in template}
        copies: list[Mapping[Node, Node]] = []
        further = len(self.layers) - self.lowered
        for shift in range(self.period, further + 1, self.period):
            made: dict[Node, Node] = {}
            with self.graph.inserting_before(self._suffix_start(units)):
                for node in template:
                    made[node] = self._copy(node, shift, units, made, previous)
                    if node in roles:
                        self._attach(made[node], self._module(node), roles[node], shift)
            copies.append(made)
            previous = made
        return copies

    def _copy(
        self,
        node: Node,
        shift: int,
        units: _Units,
        made: Mapping[Node, Node],
        previous: Mapping[Node, Node],
    ) -> Node:
        def replaced(argument: Node) -> Node:
            if argument.op == "placeholder":
                return self._shifted_input(argument, shift)
            at = self.position[argument]
            if at >= units.middle:
                return made[argument]
            if at >= units.start:
                return previous[self.nodes[at + units.length]]
            return argument

        copy = self.graph.node_copy(node, replaced)
        relabel(copy, shift, shift // self.period * self._stride(units))
        return copy

    def _stride(self, units: _Units) -> int:
        """By how much debug handles grow from one period to the next."""
        for at in range(units.start, units.middle):
            first, second = self.nodes[at], self.nodes[at + units.length]
            if first.target is not executorch_call_delegate and "debug_handle" in first.meta:
                return int(second.meta["debug_handle"]) - int(first.meta["debug_handle"])
        return 0

    def _shifted_input(self, node: Node, shift: int) -> Node:
        target = self.targets.get(node.name)
        layer = None if target is None else layer_of(target)
        if target is None or layer is None:
            return node
        return self.placeholders[in_layer(target, layer + shift)]

    def _attach(self, node: Node, module: Any, roles: Any, shift: int) -> None:
        """Give a get_attr node a module of its own, under the node's name as tools expect it."""
        setattr(self.program.graph_module, node.name, rekeyed(module, roles, shift, self.data))
        node.target = node.name

    def _suffix_start(self, units: _Units) -> Node:
        if units.end < len(self.nodes):
            return self.nodes[units.end]
        return self.graph.output_node()

    def _redirect_suffix(self, units: _Units, copies: Sequence[Mapping[Node, Node]]) -> None:
        last, shift = copies[-1], len(copies) * self.period

        def replaced(argument: Node) -> Node:
            if argument.op == "placeholder":
                return self._shifted_input(argument, shift)
            if self.position[argument] >= units.end:
                return argument
            if units.start <= self.position[argument] < units.middle:
                raise IrregularError("the end of the model reaches back over more than a period")
            return last.get(argument, argument)

        for node in self.nodes[units.end :]:
            if node.op == "get_attr":
                module = self._module(node)
                last_period = range(self.lowered - self.period, self.lowered)
                roles = roles_in_layers(module, last_period, self.data)
                self._attach(node, module, roles, shift)
            else:
                relabel(node, shift, len(copies) * self._stride(units))
                node.args = torch.fx.map_arg(node.args, replaced)
                node.kwargs = torch.fx.map_arg(node.kwargs, replaced)

    # The signature of the whole.

    def _signature(
        self, units: _Units, copies: Sequence[Mapping[Node, Node]]
    ) -> ExportGraphSignature:
        old = self.program.graph_signature
        inputs: list[InputSpec] = []
        for spec in old.input_specs:
            inputs.append(spec)
            inputs.extend(self.new_inputs.get(spec.target or "", ()))
        outputs: list[tuple[OutputSpec, Any]] = []
        output = self.graph.output_node()
        values: Any = output.args[0]
        for spec, value in zip(old.output_specs, values, strict=True):
            outputs.extend(self._outputs(spec, value, units, copies))
        output.args = (tuple(value for _, value in outputs),)
        return ExportGraphSignature(input_specs=inputs, output_specs=[spec for spec, _ in outputs])

    def _outputs(
        self, spec: OutputSpec, value: Any, units: _Units, copies: Sequence[Mapping[Node, Node]]
    ) -> Iterator[tuple[OutputSpec, Any]]:
        layer = layer_of(spec.target) if spec.target else None
        at = self.position.get(value, -1)
        if spec.kind is not OutputKind.BUFFER_MUTATION or layer is None:
            yield spec, copies[-1].get(value, value)
            return
        assert spec.target is not None
        if at >= units.end:
            yield _mutation(value, in_layer(spec.target, layer + len(copies) * self.period)), value
            return
        yield spec, value
        if at >= units.middle:
            for number, made in enumerate(copies, start=1):
                later = in_layer(spec.target, layer + number * self.period)
                yield _mutation(made[value], later), made[value]


def _mutation(value: Node, target: str) -> OutputSpec:
    return OutputSpec(OutputKind.BUFFER_MUTATION, TensorArgument(name=value.name), target)


def _as(example: Any, tensor: Tensor) -> Tensor:
    """Parameters where there were parameters: a part of a quantized weight is none by itself."""
    if not isinstance(example, nn.Parameter) or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
