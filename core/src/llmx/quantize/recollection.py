"""Running a module again and again on the same inputs, with what is settled computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from attrs import define, field
from torch import Tensor, nn

T = TypeVar("T")


@define
class Recollection:
    """What parts of a module gave for each of several inputs, whenever they were called."""

    _at: int = field(default=0, init=False)
    _calls: Counter[nn.Module] = field(factory=Counter, init=False)
    _kept: dict[nn.Module, dict[tuple[int, int], Any]] = field(factory=dict, init=False)

    def each(self, inputs: Sequence[T]) -> Iterator[T]:
        """The inputs, always the same ones; the module is run on each before the next."""
        for self._at, given in enumerate(inputs):
            self._calls.clear()
            yield given

    def keep(self, parts: Iterable[nn.Module]) -> None:
        """From now on, compute ``parts`` once for each input and call."""
        for part in parts:
            if part not in self._kept:
                self._keep(part)

    def _keep(self, part: nn.Module) -> None:
        results: dict[tuple[int, int], Any] = {}
        self._kept[part] = results
        compute = part.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            key = self._at, self._calls[part]
            self._calls[part] += 1
            if key not in results:
                results[key] = compute(*arguments, **named)
                self._drop_inside(part)
            return _copied(results[key])

        part.forward = forward

    def _drop_inside(self, part: nn.Module) -> None:
        """For this input ``part`` is not computed again, nor is anything in it."""
        for inner in part.modules():
            results = self._kept.get(inner, {}) if inner is not part else {}
            for key in [each for each in results if each[0] == self._at]:
                del results[key]

    def forget(self) -> None:
        """Let every part compute again."""
        for part in self._kept:
            del part.forward
        self._kept.clear()


def _copied(result: Any) -> Any:
    """What follows may change a tensor in place; some parts give several, or ``None`` for one."""
    if isinstance(result, tuple):
        return tuple(_copied(each) for each in result)
    return result.clone() if isinstance(result, Tensor) else result


@contextmanager
def recollection() -> Iterator[Recollection]:
    """A recollection that is forgotten at the end."""
    known = Recollection()
    try:
        yield known
    finally:
        known.forget()


def parts_without(
    module: nn.Module, pending: Collection[nn.Module], all_of_them: Collection[nn.Module]
) -> Iterator[nn.Module]:
    """The largest parts that have some of ``all_of_them``, and none of those ``pending``."""
    for part in module.children():
        inside = {each for each in part.modules() if each in all_of_them}
        if inside and inside.isdisjoint(pending):
            yield part
        else:
            yield from parts_without(part, pending, all_of_them)
