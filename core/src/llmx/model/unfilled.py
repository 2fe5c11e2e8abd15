"""Building modules of shapes and types only, which weights are put into later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

INITIAL = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


@contextmanager
def unfilled() -> Iterator[None]:
    """Let modules be built on the meta device, without initial values.

    There is no memory for those; for normally distributed ones PyTorch would import its compiler
    all the same, which takes as long as importing PyTorch.
    """
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in INITIAL:
            return named["tensor"]
        return func(*args, **named)
