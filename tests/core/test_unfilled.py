"""Modules without memory are made without initial values, which nobody would see."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llmx.model.unfilled import unfilled


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 4), lambda: nn.Embedding(8, 4)])
def test_modules_have_shapes_only(make: Callable[[], Any]) -> None:
    with unfilled():
        module = make()
    assert module.weight.is_meta
    assert module.weight.shape == make().weight.shape
    assert isinstance(module.weight, nn.Parameter)


def test_initial_values_are_drawn_again_afterwards() -> None:
    with unfilled():
        pass
    torch.manual_seed(0)
    assert nn.Embedding(8, 4).weight.std() > 0.5
    assert nn.Linear(8, 4).weight.std() > 0.05


def test_pytorchs_compiler_is_not_imported_for_it() -> None:
    code = (
        "import sys\n"
        "from torch import nn\n"
        "from llmx.model.unfilled import unfilled\n"
        "with unfilled():\n"
        "    nn.Embedding(8, 4), nn.Linear(8, 4)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
