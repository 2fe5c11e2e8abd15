"""Looking into a forward pass: what a module is given, with everything left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

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


class Replay(nn.Module):
    """In place of all layers: gives what they gave before."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any) -> Tensor:
        return self.states


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
