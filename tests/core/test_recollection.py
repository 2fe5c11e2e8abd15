"""Parts of a layer that are settled are computed once for each text, and give the same."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn

from llmx.quantize.recollection import parts_without, recollection


class Counting(nn.Module):
    """Doubles, and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.given: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.times += 1
        out = 2 * x
        self.given.append(weakref.ref(out))
        return out


class Layer(nn.Module):
    """One part that is called twice, and what changes its result in place."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Counting()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.part(x)).add_(1)


def test_each_call_is_computed_once_for_each_input() -> None:
    layer, inputs = Layer(), [torch.tensor([1.0]), torch.tensor([10.0])]
    with recollection() as known:
        known.keep([layer.part])
        for _ in range(3):
            assert [layer(x).item() for x in known.each(inputs)] == [5.0, 41.0]
    assert layer.part.times == 4


class Pair(Counting):
    """Gives two, of which one is nothing, as attention without weights does."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


def test_what_is_inside_of_a_part_that_is_kept_is_let_go() -> None:
    layer, inputs = Layer(), [torch.tensor([1.0])]
    with recollection() as known:
        for part in (layer.part, layer, layer):
            known.keep([part])
            assert [layer(x).item() for x in known.each(inputs)] == [5.0]
            held = [each for each in layer.part.given if each() is not None]
            assert len(held) == (2 if part is layer.part else 0)
    assert layer.part.times == 2


def test_parts_may_give_several() -> None:
    part = Pair()
    with recollection() as known:
        known.keep([part])
        for _ in range(2):
            for x in known.each([torch.tensor([1.0])]):
                doubled, nothing = part(x)
                assert (doubled.add_(1).item(), nothing) == (3.0, None)
    assert part.times == 1


def test_afterwards_parts_compute_again() -> None:
    layer = Layer()
    with recollection() as known:
        known.keep([layer.part])
        for x in known.each([torch.tensor([1.0])]):
            layer(x)
    assert layer(torch.tensor([3.0])).item() == 13.0
    assert layer.part.times == 4


def test_the_largest_parts_without_anything_pending() -> None:
    first, second, third = (nn.Linear(2, 2) for _ in range(3))
    inner = nn.Sequential(first, second)
    layer = nn.Sequential(inner, nn.ReLU(), nn.Sequential(third))
    linears = {first, second, third}
    assert list(parts_without(layer, {second, third}, linears)) == [first]
    assert list(parts_without(layer, {third}, linears)) == [inner]
