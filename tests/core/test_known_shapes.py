"""Shapes that are known need not be traced again, and what is lowered stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torchao.quantization import quant_primitives

from llmx.lower.known_shapes import COMPOSITE, shapes_remembered
from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value

CHOOSE = torch.ops.torchao.choose_qparams_affine.default


def quantized_program() -> ExportedProgram:
    layer = nn.Linear(64, 32, bias=False)
    codes = largest_value(layer.weight.detach(), Scheme(bits=4, group=32, activations="int8"))
    model = nn.Sequential(affine_linear(layer, codes))
    length = {1: torch.export.Dim("length", max=8)}
    with torch.no_grad():
        return torch.export.export(
            model, (torch.randn(1, 3, 64),), dynamic_shapes=(length,), strict=False
        )


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """How often the operator's own code is run."""
    calls: list[Any] = []
    real = quant_primitives._get_reduction_params

    def noted(*args: Any) -> Any:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(quant_primitives, "_get_reduction_params", noted)
    yield calls


ARGUMENTS = ("ASYMMETRIC", [1, 1, 64], torch.int8, -128, 127, 1e-5, torch.float32)


def choose(x: Tensor) -> tuple[Tensor, Tensor]:
    """As lowering calls operators that it keeps whole."""
    found: tuple[Tensor, Tensor] = CHOOSE.decompose(x, *ARGUMENTS)
    return found


def test_a_shape_is_worked_out_once_and_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        shapes_remembered(quantized_program()),
        FakeTensorMode() as mode,
        counted(monkeypatch) as calls,
    ):
        x = mode.from_tensor(torch.randn(1, 5, 64))
        first, again = choose(x), choose(x)
        assert len(calls) == 1
        other = choose(mode.from_tensor(torch.randn(1, 7, 64)))
        assert len(calls) == 2
    real = choose(torch.randn(1, 5, 64))
    for one, two, expected in zip(first, again, real, strict=True):
        assert one is not two
        assert (one.shape, one.stride(), one.dtype) == (two.shape, two.stride(), two.dtype)
        assert (one.shape, one.dtype) == (expected.shape, expected.dtype)
    assert other[0].shape != first[0].shape


def test_what_is_remembered_is_fake_outside_of_the_mode_too() -> None:
    mode = FakeTensorMode()
    x = mode.from_tensor(torch.randn(1, 5, 64))
    with shapes_remembered(quantized_program()):
        for _ in range(2):
            assert all(isinstance(each, FakeTensor) for each in choose(x))


def test_real_tensors_are_computed_with() -> None:
    x = torch.randn(1, 5, 64)
    expected = choose(x)
    with shapes_remembered(quantized_program()):
        for _ in range(2):
            torch.testing.assert_close(choose(x), expected, rtol=0, atol=0)


def test_whoever_records_sees_what_an_operator_consists_of() -> None:
    with shapes_remembered(quantized_program()), FakeTensorMode() as mode:
        x = mode.from_tensor(torch.randn(1, 5, 64))
        choose(x)
    expected = make_fx(choose)(torch.randn(1, 5, 64))
    with shapes_remembered(quantized_program()):
        found = make_fx(choose)(torch.randn(1, 5, 64))
    assert [node.target for node in found.graph.nodes] == [
        node.target for node in expected.graph.nodes
    ]
    assert len(found.graph.nodes) > 3


def test_kernels_are_as_before_afterwards() -> None:
    before = dict(CHOOSE.py_kernels)
    with pytest.raises(ZeroDivisionError), shapes_remembered(quantized_program()):
        assert COMPOSITE in CHOOSE.py_kernels
        raise ZeroDivisionError
    assert CHOOSE.py_kernels == before
