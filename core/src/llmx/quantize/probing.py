"""Looking into a forward pass: what a module is given, with everything left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

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
    """Let float layers round their inputs as the quantized ones will.

    Layers that are called one after the other with the same tensor are given the same again.
    """
    last: list[tuple[Tensor, Tensor]] = []

    def rounded(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        if not last or last[0][0] is not given[0]:
            last[:] = [(given[0], rounded_to_int8(given[0]))]
        return (last[0][1],)

    hooks = [
        module.register_forward_pre_hook(rounded)
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


def rounded_to_int8(x: Tensor) -> Tensor:
    """What ``linear.rounded_per_token`` does, in single precision and a fifth of the time."""
    values = x.float()
    least = values.amin(-1, keepdim=True).clamp_max_(0)
    scale = values.amax(-1, keepdim=True).clamp_min_(0).sub_(least).div_(255)
    scale.clamp_min_(torch.finfo(torch.float32).eps)
    zero = (-128 - least / scale).round_().clamp_(-128, 127)
    steps = (values / scale).round_()
    rounded = steps.clamp_(-128 - zero, 127 - zero).mul_(scale)
    return rounded.to(x.dtype)
