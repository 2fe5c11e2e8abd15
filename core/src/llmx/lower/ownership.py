"""Whose weights the segments of a lowered template hold, and which of them have to be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch.export import ExportedProgram
from torch.fx import Node

from llmx.lower.correspondence import Correspondence
from llmx.lower.eager_tensor import layer_of
from llmx.lower.payload import LayerData, Roles, roles_of
from llmx.lower.segments import Segments
from llmx.lower.template import IrregularError, Template, UnprovenError

NEAR = frozenset({-1, 0, 1})


@frozen
class Ownership:
    """A lowered template's parts.

    ``targets`` tells what the program's inputs are, by their names; ``delegates`` are the modules
    of its get_attr nodes.
    """

    program: ExportedProgram
    template: Template
    segments: Segments
    data: LayerData
    targets: Mapping[str, str]
    delegates: Mapping[Node, LoweredBackendModule]

    def place_of(self, node: Node) -> int | None:
        """Of the layer whose parameter or cache a node is, if it is one."""
        target = self.targets.get(node.name) if node.op == "placeholder" else None
        return None if target is None else layer_of(target)

    def steps(self) -> frozenset[int]:
        """Whose weights a layer's segment has besides its own: -1 the layer's before, 1 the next's.

        Of those between the first and the last, which alone are repeated.

        Raises:
            IrregularError: it has some of layers further away.
        """
        found: set[int] = set()
        for place, nodes in list(enumerate(self.segments.layers))[1:-1]:
            for node in nodes:
                owners = (self.place_of(each) for each in node.all_input_nodes)
                found.update(owner - place for owner in owners if owner is not None)
                if node in self.delegates:
                    roles = roles_of([(self.delegates[node], place)], self.data, self.chosen)
                    steps = [{step for step, _ in each} for each in roles]
                    # A datum may happen to be another layer's, too.
                    found.update(*(each for each in steps if len(each) == 1))
        if not found <= NEAR:
            raise IrregularError("a layer of the lowered template has weights of distant ones")
        return frozenset(found)

    def alike(self, steps: frozenset[int]) -> list[list[int]]:
        """Places whose segments are the same, with neighbours of the same kinds, in order.

        The first and the last are among them where they are the same, too: angles may be computed
        with the first layer, and the model ends with the last.

        Raises:
            IrregularError: segments of layers between them are not the same.
            UnprovenError: there is nothing that could be compared.
        """
        same = Correspondence(self.program, self.segments, self.targets)
        last = len(self.chosen) - 1
        groups: dict[tuple[int, ...], list[int]] = {}
        for place in [*range(1, last), last, 0]:
            around = self.template.around_place(place, steps)
            if around is None:
                continue
            others = groups.setdefault(around, [])
            if place in (0, last):
                fits = others and same.holds(*sorted((others[0 if place == 0 else -1], place)))
                if fits:
                    others.insert(0 if place == 0 else len(others), place)
            elif others and not same.holds(others[-1], place):
                raise IrregularError("the layers of the lowered template do not repeat")
            else:
                others.append(place)
        if all(len(each) < 2 for each in groups.values()):
            raise UnprovenError("the layers of the lowered template do not repeat")
        return list(filter(None, groups.values()))

    def roles(
        self, steps: frozenset[int], alike: Sequence[Sequence[int]]
    ) -> Mapping[Node, list[Roles]]:
        """What the keys in the payload of every delegate of a layer are."""
        roles: dict[Node, list[Roles]] = {}
        for place, nodes in enumerate(self.segments.layers):
            for node in nodes:
                if node in self.delegates:
                    roles[node] = self._roles_within(steps, [node], [place])
        for places in alike:
            # What is one layer's weight and another one's, too, is told by what stands there.
            for column in zip(*(self.segments.layers[place] for place in places), strict=False):
                if column[0] in self.delegates:
                    found = self._roles_within(steps, column, places)
                    roles.update(dict.fromkeys(column, found))
        return roles

    def _roles_within(
        self, steps: frozenset[int], nodes: Sequence[Node], places: Sequence[int]
    ) -> list[Roles]:
        modules = [(self.delegates[node], place) for node, place in zip(nodes, places, strict=True)]
        return [
            frozenset(each for each in roles if each[0] in steps or each[0] == 0)
            for roles in roles_of(modules, self.data, self.chosen)
        ]

    @property
    def chosen(self) -> Sequence[int]:
        """The template's layers."""
        return self.template.chosen
