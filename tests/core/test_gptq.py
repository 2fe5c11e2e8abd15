"""Second-order rounding: a layer's output changes less than by any rounding of its weight alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from llmx.quantize.codes import Codes
from llmx.quantize.gptq import Gptq, relative_output_error
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import half_quadratic, largest_value


def correlated(width: int, count: int = 2000, seed: int = 0) -> Tensor:
    """Second moments of inputs that depend on each other, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, width, generator=generator) @ torch.randn(
        width, width, generator=generator
    )
    return inputs.T @ inputs / count


def weight(rows: int, width: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def loss(codes: Codes, original: Tensor, moments: Tensor) -> float:
    change = codes.dequantize() - original
    return float(((change @ moments) * change).sum())


@pytest.mark.parametrize("scheme", [Scheme(4, 32), Scheme(4, 96), Scheme(2, 32), Scheme(8, 96)])
def test_integers_and_scales_are_what_the_scheme_says(scheme: Scheme) -> None:
    codes = Gptq()(weight(40, 96), correlated(96), scheme)
    limit = 1 << scheme.bits - 1
    assert codes.values.dtype == torch.int8
    assert codes.scales.shape == (40, 96 // scheme.group)
    assert codes.scales.dtype == (torch.float32 if scheme.bits == 8 else torch.bfloat16)
    assert bool((codes.scales > 0).all())
    assert -limit <= int(codes.values.min()) <= int(codes.values.max()) < limit


@pytest.mark.parametrize("rounding", [largest_value, half_quadratic])
def test_the_output_changes_much_less_than_by_rounding_without_data(rounding) -> None:
    original, moments, scheme = weight(64, 96), correlated(96), Scheme(4, 32)
    calibrated = loss(Gptq()(original, moments, scheme), original, moments)
    assert calibrated < 0.5 * loss(rounding(original, scheme), original, moments)


def test_each_refinement_helps() -> None:
    original, moments = weight(64, 96), correlated(96)
    losses = [
        loss(Gptq(refinements=turns)(original, moments, Scheme(4, 32)), original, moments)
        for turns in range(3)
    ]
    assert losses[0] > 1.05 * losses[1] > 1.05 * losses[2] * 0.99
    assert losses[1] > losses[2]


def test_no_single_integer_could_be_better() -> None:
    original, moments, scheme = weight(3, 32), correlated(32), Scheme(4, 32)
    solver = Gptq(damping=1e-6, refinements=12)
    codes = solver(original, moments, scheme)
    reached = loss(codes, original, moments)
    for row, column, step in itertools.product(range(3), range(32), (-1, 1)):
        value = int(codes.values[row, column]) + step
        if -8 <= value < 8:
            values = codes.values.clone()
            values[row, column] = value
            assert loss(Codes(values, codes.scales, scheme), original, moments) > 0.999 * reached


def test_weights_that_the_scheme_can_hold_stay_as_they_are() -> None:
    values = torch.randint(-8, 8, (16, 64), generator=torch.Generator().manual_seed(0))
    values[:, ::32] = -8
    exact = Codes(values.to(torch.int8), torch.full((16, 2), 0.25).bfloat16(), Scheme(4, 32))
    original = exact.dequantize()
    codes = Gptq()(original, correlated(64), Scheme(4, 32))
    assert relative_output_error(codes, original, correlated(64)) < 0.02


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    moments = correlated(64)
    moments[:, 5] = moments[5] = 0
    original = weight(16, 64)
    codes = Gptq()(original, moments, Scheme(4, 32))
    difference = (codes.dequantize() - original)[:, 5].abs()
    assert bool((difference <= codes.scales[:, 0].float()).all())
    silent = Gptq()(original, torch.zeros(64, 64), Scheme(4, 32))
    assert (silent.dequantize() - original).norm() < 0.12 * original.norm()


def test_rows_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    original, moments = weight(50, 64), correlated(64)
    whole = Gptq()(original, moments, Scheme(4, 32))
    monkeypatch.setattr("llmx.quantize.gptq.MOST_VALUES", 14 * 64)
    parts = Gptq()(original, moments, Scheme(4, 32))
    assert (whole.dequantize() - parts.dequantize()).norm() < 1e-2 * original.norm()


def test_the_error_reported_is_that_of_the_output() -> None:
    inputs = torch.randn(500, 64, generator=torch.Generator().manual_seed(3))
    original = weight(16, 64)
    codes = largest_value(original, Scheme(4, 32))
    expected = (inputs @ (codes.dequantize() - original).T).norm() / (inputs @ original.T).norm()
    found = relative_output_error(codes, original, inputs.T @ inputs / 500)
    assert found == pytest.approx(float(expected), rel=1e-4)
