"""Weights of the eager model, expanded for the check: bit for bit as torchao expands them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from torch import nn

from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import half_quadratic, largest_value, least_squares
from llmx.run.expansion import expanded, expanding_quickly, quick_expansion

BITS_AND_GROUPS = [(2, 32), (3, 64), (4, 32), (4, 256), (8, 32), (8, 256)]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def rounded(
    bits: int = 4,
    group: int = 32,
    *,
    dtype: torch.dtype = torch.float32,
    scales: torch.dtype | None = None,
    rows: int = 600,
    activations: Any = "int8",
) -> nn.Linear:
    """A layer of ``rows`` outputs, enough for several blocks, in torchao's form."""
    linear = nn.Linear(256, rows, dtype=dtype)
    with torch.no_grad():
        linear.weight[3] = 0
    codes = least_squares(linear.weight.detach().float(), Scheme(bits, group, activations))
    if scales is not None:
        codes = attrs.evolve(codes, scales=codes.scales.to(scales))
    made = affine_linear(linear, codes)
    assert isinstance(made, nn.Linear)
    return made


def bytes_of(values: torch.Tensor) -> torch.Tensor:
    """Told apart to the last bit, the sign of zeros too."""
    return values.detach().contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scales", [None, *FLOATS])
@pytest.mark.parametrize(("bits", "group"), BITS_AND_GROUPS)
def test_the_floats_are_those_of_torchao(
    bits: int, group: int, scales: torch.dtype | None, dtype: torch.dtype
) -> None:
    weight: Any = rounded(bits, group, dtype=dtype, scales=scales).weight
    theirs = weight.dequantize()
    assert theirs.dtype == dtype
    assert torch.equal(bytes_of(expanded(weight)), bytes_of(theirs))


@pytest.mark.parametrize("rounding", [largest_value, half_quadratic])
def test_other_ways_to_round_expand_the_same(rounding: Any) -> None:
    linear = nn.Linear(64, 32)
    weight: Any = affine_linear(linear, rounding(linear.weight.detach(), Scheme(4, 32))).weight
    assert torch.equal(bytes_of(expanded(weight)), bytes_of(weight.dequantize()))


@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_points_are_subtracted(dtype: torch.dtype) -> None:
    weight: Any = rounded(8, 32, dtype=dtype).weight
    weight.zero_point.random_(-128, 128)
    assert torch.equal(bytes_of(expanded(weight)), bytes_of(weight.dequantize()))


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_a_model_computes_the_same_and_is_left_as_it_was(activations: str) -> None:
    model, x = (
        nn.Sequential(rounded(activations=activations), nn.Linear(600, 8)),
        torch.ones(3, 256),
    )
    with torch.no_grad():
        expected = model(x)
        with quick_expansion(model):
            assert "dequantize" in vars(model[0].weight)
            assert torch.equal(bytes_of(model(x)), bytes_of(expected))
    assert "dequantize" not in vars(model[0].weight)


def test_floats_are_not_touched() -> None:
    linear = nn.Linear(8, 8)
    assert not expanding_quickly(linear.weight)
    assert not expanding_quickly(linear.weight.detach())
    assert "dequantize" not in vars(linear.weight)
