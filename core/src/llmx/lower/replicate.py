"""Lower a few layers and repeat them: equal layers lower to equal programs.

The graph of a lowered template is divided into segments, one for each of its layers. Every layer of
the whole model becomes a copy of the segment that it repeats, with its own caches and parameters as
inputs and its own weights in the delegates' payloads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from attrs import define, field
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
from torch.fx.node import map_arg

from llmx.lower.correspondence import form
from llmx.lower.eager_tensor import in_layer, layer_of, tensor_of
from llmx.lower.labels import HANDLE, relabel
from llmx.lower.ownership import Ownership
from llmx.lower.payload import DelegateData, LayerData, Roles, rekeyed
from llmx.lower.segments import Segments, segments_of
from llmx.lower.template import IrregularError, Template
from llmx.lower.unseen import require_all_seen
from llmx.spool import Spool


def replicate(
    program: ExportedProgram,
    template: Template,
    layers: Sequence[nn.Module],
    delegate_data: DelegateData,
    spool: Spool,
) -> ExportedProgram:
    """The lowered program of all ``layers``, from that of the few in ``template``.

    Args:
        program: the lowered ``template``.
        layers: all layers of the eager model.
        delegate_data: the backend's hook.
        spool: where the payloads' weights wait until the program is written.

    Raises:
        IrregularError: the template's layers did not lower to the same program.
    """
    data = LayerData.collect(layers, delegate_data, spool)
    return _Replication(program, template, layers, data).run()


@define
class _Replication:
    program: ExportedProgram
    template: Template
    layers: Sequence[nn.Module]
    data: LayerData
    targets: Mapping[str, str] = field(init=False)
    """What the inputs are, by their names in the template's graph."""
    held: Mapping[str, Any] = field(init=False)
    """The template's parameters, buffers and constants, by their names."""
    delegates: Mapping[Node, LoweredBackendModule] = field(init=False)
    segments: Segments = field(init=False)
    roles: Mapping[Node, list[Roles]] = field(init=False)
    sources: Sequence[int] = field(init=False)
    """For every layer, the place in the template of the one that it repeats."""
    counterparts: Mapping[int, int] = field(init=False)
    """For places, the first one that is alike."""
    graph: Graph = field(factory=Graph)
    inputs: dict[str, Node] = field(factory=dict)
    """The new graph's inputs by what they are."""
    before: dict[Node, Node] = field(factory=dict)
    """From the template's operators before its layers to those of the new graph."""
    copies: list[dict[Node, Node]] = field(factory=list)
    """For every layer, from the operators of the segment that it repeats to the new graph's."""
    tensors: dict[str, Any] = field(factory=dict)
    """Parameters, buffers and constants of the new program, by their names."""

    def __attrs_post_init__(self) -> None:
        signature, root = self.program.graph_signature, self.program.graph_module
        self.targets = {
            spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None
        }
        self.held = {**self.program.constants, **self.program.state_dict}
        self.delegates = {
            node: getattr(root, str(node.target))
            for node in self.program.graph.nodes
            if node.op == "get_attr"
        }
        self.segments = segments_of(self.program, len(self.template.chosen))
        require_all_seen(self.program, self.template, self.layers, self.data, self.targets)
        ownership = Ownership(
            self.program, self.template, self.segments, self.data, self.targets, self.delegates
        )
        steps = ownership.steps()
        alike = ownership.alike(steps)
        self.sources = self.template.sources(steps, alike)
        self.roles = ownership.roles(steps, alike)
        self.counterparts = {place: places[0] for places in alike for place in places}

    def run(self) -> ExportedProgram:
        inputs = self._add_inputs()
        for node in self.segments.before:
            self.before[node] = self.graph.node_copy(node, self._found_in(self.before))
            if node in self.delegates:
                self._attach(self.before[node], self.delegates[node])
        for layer, handles in enumerate(self._handle_shifts()):
            self._copy_layer(layer, handles)
        outputs = self._add_outputs()
        self.graph.lint()
        return ExportedProgram(
            root=self.program.graph_module,
            graph=self.graph,
            graph_signature=ExportGraphSignature(input_specs=inputs, output_specs=outputs),
            state_dict=self._held_in(self.program.state_dict),
            range_constraints=self.program.range_constraints,
            module_call_graph=self.program.module_call_graph,
            constants=self._held_in(self.program.constants),
            verifiers=[self.program.verifier],
        )

    # Inputs: those of the template, with every layer's where the template has some layers'.

    def _add_inputs(self) -> list[InputSpec]:
        nodes = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        specs: list[InputSpec] = []
        by_kind = groupby(
            self.program.graph_signature.input_specs,
            lambda spec: None if _layer(spec) is None else spec.kind,
        )
        for kind, run in by_kind:
            if kind is None:
                specs.extend(self._shared_input(spec, nodes[spec.arg.name]) for spec in run)
                continue
            by_place: dict[int, list[InputSpec]] = {}
            for spec in run:
                by_place.setdefault(_layer(spec) or 0, []).append(spec)
            for layer, place in enumerate(self.sources):
                specs.extend(
                    self._layer_input(spec, nodes[spec.arg.name], place, layer)
                    for spec in by_place.get(place, ())
                )
        return specs

    def _shared_input(self, spec: InputSpec, node: Node) -> InputSpec:
        if spec.target is not None and spec.target in self.held:
            self.tensors[spec.target] = self.held[spec.target]
        self.inputs[spec.target or node.name] = self.graph.node_copy(node)
        return spec

    def _layer_input(self, spec: InputSpec, node: Node, place: int, layer: int) -> InputSpec:
        assert spec.target is not None
        target = in_layer(spec.target, layer)
        example = self.held[spec.target]
        if not torch.equal(
            example, self._eager(in_layer(spec.target, self.template.chosen[place]))
        ):
            raise IrregularError(f"{spec.target} was changed while it was lowered")
        self.tensors[target] = _as(example, self._eager(target))
        made = self.graph.placeholder(node.name.replace(f"_{place}_", f"_{layer}_", 1))
        made.meta = dict(node.meta)
        self.inputs[target] = made
        return InputSpec(
            kind=spec.kind,
            arg=TensorArgument(name=made.name),
            target=target,
            persistent=spec.persistent,
        )

    def _held_in(self, example: Mapping[str, Any]) -> dict[str, Any]:
        """The new tensors that belong where the template's are."""
        roles = {in_layer(name, 0) for name in example}
        return {name: each for name, each in self.tensors.items() if in_layer(name, 0) in roles}

    def _eager(self, target: str) -> Tensor:
        tensor = tensor_of(self.layers, target)
        if tensor is None:
            raise IrregularError(f"{target} is no tensor of the eager model")
        return tensor

    # Layers.

    def _copy_layer(self, layer: int, handles: int) -> None:
        place = self.sources[layer]
        made: dict[Node, Node] = {}
        known = {**self.before, **self._taken(layer)}
        for node in self._segment(layer):
            copy = self.graph.node_copy(node, self._found_in(known, place, layer))
            relabel(copy, layer - place, handles)
            if node in self.delegates:
                for step in {step for each in self.roles[node] for step, _ in each}:
                    self._neighbour(place, layer, step)
                module = rekeyed(self.delegates[node], self.roles[node], layer, self.data)
                self._attach(copy, module)
            made[node] = known[node] = copy
        self.copies.append(made)

    def _segment(self, layer: int) -> Sequence[Node]:
        """What a layer repeats; of the template's last one without the end of the model."""
        nodes = self.segments.layers[self.sources[layer]]
        if layer == len(self.layers) - 1:
            return nodes
        return nodes[: len(self.segments.layers[self._counterpart(layer)])]

    def _counterpart(self, layer: int) -> int:
        """The first place that is like the one that a layer repeats."""
        return self.counterparts.get(self.sources[layer], self.sources[layer])

    def _handed_on(self, layer: int) -> list[Node]:
        """What the layer after ``layer`` takes of it, in the segment that it repeats."""
        other = self._counterpart(layer)
        there = self.segments.layers[other]
        nodes = self._segment(layer)
        return [nodes[there.index(each)] for each in self.segments.handed_on[other]]

    def _taken(self, layer: int) -> dict[Node, Node]:
        """From what a layer's segment takes of those before it to what there is in their places."""
        if layer == 0:
            return {}
        wanted = self.segments.handed_on[self.sources[layer] - 1]
        there = self._handed_on(layer - 1)
        if [form(each) for each in wanted] != [form(each) for each in there]:
            raise IrregularError("layers of one kind take different things from others")
        lasting = {node: self.copies[0][node] for node in self.segments.lasting}
        copies = self.copies[-1]
        return lasting | {node: copies[other] for node, other in zip(wanted, there, strict=True)}

    def _found_in(
        self, known: Mapping[Node, Node], place: int = 0, layer: int = 0
    ) -> Callable[[Node], Node]:
        """How an operator of the layer at a place finds its arguments when it becomes one of
        ``layer``."""

        def found(argument: Node) -> Node:
            if argument.op != "placeholder":
                return known[argument]
            target = self.targets.get(argument.name)
            owner = None if target is None else layer_of(target)
            if target is None or owner is None:
                return self.inputs[target or argument.name]
            return self.inputs[in_layer(target, self._neighbour(place, layer, owner - place))]

        return found

    def _neighbour(self, place: int, layer: int, step: int) -> int:
        """The layer that is to ``layer`` what the one ``step`` further is in the template."""
        kinds, found = self.template.kinds, layer + step
        if not 0 <= found < len(kinds) or kinds[found] != kinds[self.template.chosen[place + step]]:
            raise IrregularError("a layer has weights of others than elsewhere")
        return found

    def _attach(self, node: Node, module: LoweredBackendModule) -> None:
        """Give a get_attr node its module, under the node's name as tools expect it."""
        setattr(self.program.graph_module, node.name, module)
        node.target = node.name

    def _handle_shifts(self) -> Iterator[int]:
        """By how much every layer's debug handles are above those of its segment.

        As if all layers had been numbered in one graph.
        """
        firsts = [self._first_handle(place) for place in range(len(self.template.chosen))]
        at = firsts[0]
        for layer, place in enumerate(self.sources):
            yield at - firsts[place]
            if layer < len(self.sources) - 1:
                like = self._counterpart(layer)
                at += firsts[like + 1] - firsts[like]

    def _first_handle(self, place: int) -> int:
        for node in self.segments.layers[place]:
            if node.target is not executorch_call_delegate and HANDLE in node.meta:
                return int(node.meta[HANDLE])
        return 0

    # Outputs.

    def _add_outputs(self) -> list[OutputSpec]:
        output = self.program.graph.output_node()
        values: Any = output.args[0]
        pairs = list(zip(self.program.graph_signature.output_specs, values, strict=True))
        specs: list[OutputSpec] = []
        made: list[Any] = []
        for of_layers, run in groupby(pairs, lambda pair: _changed_layer(pair[0]) is not None):
            changed = list(run)
            for spec, value in self._changed(changed) if of_layers else self._given(changed):
                specs.append(spec)
                made.append(value)
        self.graph.output(tuple(made)).meta = dict(output.meta)
        return specs

    def _given(self, pairs: Sequence[tuple[OutputSpec, Any]]) -> Iterator[tuple[OutputSpec, Any]]:
        """Outputs that belong to no layer: of the last one, or of what is before all."""
        made = {**self.before, **self.copies[-1]}
        known = self._found_in(made)
        for spec, value in pairs:
            if isinstance(value, Node) and value.op != "placeholder" and value not in made:
                raise IrregularError("a layer in the middle gives an output of the model")
            new = map_arg(value, known)
            arg = TensorArgument(name=new.name) if isinstance(new, Node) else spec.arg
            yield OutputSpec(spec.kind, arg, spec.target), new

    def _changed(self, pairs: Sequence[tuple[OutputSpec, Any]]) -> Iterator[tuple[OutputSpec, Any]]:
        """Every layer's buffers that a call changes."""
        for layer, place in enumerate(self.sources):
            for spec, value in pairs:
                if _changed_layer(spec) != place:
                    continue
                if value not in self.copies[layer]:
                    raise IrregularError(f"{spec.target} is changed outside of its layer")
                new = self.copies[layer][value]
                assert spec.target is not None
                target = in_layer(spec.target, layer)
                yield OutputSpec(spec.kind, TensorArgument(name=new.name), target), new


def _layer(spec: InputSpec) -> int | None:
    return None if spec.target is None else layer_of(spec.target)


def _changed_layer(spec: OutputSpec) -> int | None:
    if spec.kind is not OutputKind.BUFFER_MUTATION or spec.target is None:
        return None
    return layer_of(spec.target)


def _as(example: Any, tensor: Tensor) -> Tensor:
    """Parameters where there were parameters: a part of a quantized weight is none by itself."""
    if not isinstance(example, nn.Parameter) or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)
