"""The few layers that are lowered for all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

from attrs import frozen
from torch import nn

from llmx.model.kv_cache import cores_of
from llmx.model.shallow import shallow_copy


class IrregularError(Exception):
    """The layers, or their lowered forms, do not repeat, so they cannot be copied; says where."""


class UnprovenError(IrregularError):
    """Nothing in the lowered template is there twice, so that it could be seen to repeat."""


@frozen
class Template:
    """A few of a model's layers, which all its layers repeat.

    What a lowered layer looks like depends on its own kind and on that of a neighbour: the end of
    one and the beginning of the next become one delegate. So each pair of kinds that follow each
    other is here, and the first and the last pair stand where they stand in the whole model.

    Attributes:
        model: has these layers only and shares their weights.
        chosen: which layers of the whole model they are, in their order here.
        kinds: of every layer of the whole model; equal numbers for equal kinds.
    """

    model: nn.Module
    chosen: Sequence[int]
    kinds: Sequence[int]

    def around_place(self, place: int, steps: Collection[int]) -> tuple[int, ...] | None:
        """Kinds of the layer at a place here and of its neighbours; ``None`` where one is missing.

        Args:
            steps: which neighbours count: -1 the layer before, 1 the next.
        """
        return _around([self.kinds[layer] for layer in self.chosen], place, steps)

    def sources(self, steps: Collection[int], alike: Sequence[Sequence[int]]) -> list[int]:
        """For every layer of the whole model, the place here of the one that it repeats.

        It is the last of those that are ``alike``, since the second layer may take from what is
        before all layers what others take from the one before them.

        Raises:
            IrregularError: no layer here has such neighbours.
        """
        end = len(self.chosen) - 1
        like = {
            self.around_place(places[-1], steps): places[-1]
            for places in alike
            # The last one's end is the model's; another tells where its own is.
            if places[-1] != end or len(places) > 1
        }
        layers = range(2, len(self.kinds) - 1)
        found = [like.get(_around(self.kinds, layer, steps), 0) for layer in layers]
        if 0 in found:
            raise IrregularError("a layer looks different between other neighbours")
        return [0, 1, *found, end]


def template_of(model: nn.Module, least: int = 0) -> Template | None:
    """The shortest template of ``least`` or more layers; ``None`` if it would be the whole model.

    Layers of one kind are of one class, with parameters, buffers and attention of the same shapes,
    and an equal ``kind`` if they have that attribute.

    Raises:
        IrregularError: there is no list of layers.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise IrregularError("the model has no list of layers")
    kinds = _numbered([_structure(layer) for layer in layers])
    chosen = _shortest(kinds, _numbered([_place(layer) for layer in layers]), least)
    if len(chosen) == len(layers):
        return None
    template = shallow_copy(model)
    template.layers = nn.ModuleList(layers[at] for at in chosen)
    return Template(template, chosen, kinds)


def _shortest(kinds: Sequence[int], places: Sequence[int], least: int) -> list[int]:
    """Layers that have every pair of kinds.

    The first ones, unless others are fewer. A model may know of its layers' ``places`` by their
    numbers, so that in a place there is only what is like the layer that belongs there.
    """
    first = list(range(_beginning(kinds, least)))
    fewer = _without_detours(kinds, least)
    fit = all(places[at] == places[place] for place, at in enumerate(fewer))
    return fewer if fit and len(fewer) < len(first) else first


def _beginning(kinds: Sequence[int], least: int) -> int:
    """How many of the first layers have every pair, and end as all do."""
    whole = list(range(len(kinds)))
    counts = (count for count in whole[least:] if _is_enough(kinds, whole[:count]))
    return next(counts, len(kinds))


def _without_detours(kinds: Sequence[int], least: int) -> list[int]:
    """Layers left when no more can go without a pair getting lost, the longest runs first."""
    left = list(range(len(kinds)))
    length = len(left) - max(least, 2)
    while length > 0:
        ends = ((start, start + length) for start in range(1, len(left) - length))
        fewer = (
            [*left[:start], *left[end:]]
            for start, end in ends
            if kinds[left[start]] == kinds[left[end]]
        )
        found = next((each for each in fewer if _is_enough(kinds, each)), None)
        if found is None:
            length -= 1
        else:
            left, length = found, min(length, len(found) - max(least, 2))
    return left


def _is_enough(kinds: Sequence[int], chosen: Sequence[int]) -> bool:
    """Whether every layer of the whole finds its like among the chosen ones."""
    wanted = list(pairwise(kinds))
    there = list(pairwise(kinds[at] for at in chosen))
    if len(there) < 2 or (there[0], there[-1]) != (wanted[0], wanted[-1]):
        return False
    between = set(there[1:-1])
    return all(pair in between or pair == there[0] == there[-1] for pair in wanted[1:-1])


def _around(kinds: Sequence[int], at: int, steps: Collection[int]) -> tuple[int, ...] | None:
    near = [at + step for step in sorted({0, *steps})]
    inside = all(0 <= each < len(kinds) for each in near)
    return tuple(kinds[each] for each in near) if inside else None


def _numbered(values: Sequence[object]) -> list[int]:
    """Equal numbers for equal values."""
    return [values.index(each) for each in values]


def _place(layer: nn.Module) -> list[tuple[Any, ...]]:
    # Windows show in no shape where caches are as long as the context.
    cores = [(each.kind,) for each in cores_of(layer)]
    # Nor do settings; layers that have any say so.
    return [("kind", getattr(layer, "kind", None)), *cores]


def _structure(layer: nn.Module) -> list[tuple[Any, ...]]:
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    return [("type", type(layer)), *_place(layer)] + [
        (name, tuple(each.shape), each.dtype, type(each), getattr(each, "block_size", None))
        for name, each in tensors
    ]
