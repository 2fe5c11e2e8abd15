"""Looking into a forward pass: what a module is given, with everything left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from llmx.quantize.linear import rounded_per_token
from llmx.quantize.plan import Scheme


class _Reached(Exception):  # noqa: N818 -- not an error
    """Raised to leave a forward pass where its further results are not needed."""


def arguments_of(module: nn.Module, run: Callable[[], object]) -> tuple[Any, ...]:
    """What ``run`` passes to ``module``, which is not run itself; nor is what follows it."""

    def leave(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        raise _Reached(*arguments)

    hook = module.register_forward_pre_hook(leave)
    try:
        run()
    except _Reached as reached:
        return reached.args
    finally:
        hook.remove()
    raise AssertionError(f"{type(module).__name__} was not called")


def arguments_of_each(
    modules: Sequence[nn.Module], run: Callable[[], object]
) -> list[tuple[Any, ...]]:
    """What ``run`` passes to each of ``modules``, in this order; each gives the first back."""
    given: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> Any:
        given.append(arguments)
        if len(given) == len(modules):
            raise _Reached
        return arguments[0]

    with replaced(modules, note), suppress(_Reached):
        run()
    return given


@contextmanager
def replaced(modules: Iterable[nn.Module], forward: Callable[..., object]) -> Iterator[None]:
    """Let ``modules`` compute something else; what they are made of stays to be seen."""
    changed = list(modules)
    for module in changed:
        module.forward = forward
    try:
        yield
    finally:
        for module in changed:
            del module.forward


@contextmanager
def int8_inputs(linears: Mapping[str, nn.Linear], schemes: Mapping[str, Scheme]) -> Iterator[None]:
    """Let float layers round their inputs as the quantized ones will."""
    hooks = [
        module.register_forward_pre_hook(lambda _, given: (rounded_per_token(given[0]),))
        for name, module in linears.items()
        if schemes[name].activations == "int8"
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def buffers_kept(layer: nn.Module) -> Iterator[None]:
    """Undo what calls write into buffers such as caches."""
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in layer.named_buffers():
            buffer.copy_(before[name])
