"""Weights are rounded once: the same values and scheme give the codes that were kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmx.cache import DiskStore
from llmx.cache.codes import QUICK, remembered
from llmx.quantize.codes import Codes, Rounding
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import half_a_step_beyond, half_quadratic, least_squares

WEIGHT = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))


class Counted:
    """Rounds, and knows how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, weight: Tensor, scheme: Scheme) -> Codes:
        self.calls += 1
        return half_a_step_beyond(weight, scheme)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path, 10**8)


@pytest.fixture
def rounding(counted: Counted, store: DiskStore) -> Rounding:
    return remembered(counted, "counted", store, {"version": 1})


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_second_time_the_same_codes_are_read(
    rounding: Rounding, counted: Counted, bits: int
) -> None:
    first, second = (rounding(WEIGHT.clone(), Scheme(bits, 32)) for _ in range(2))
    assert counted.calls == 1
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.scales, second.scales)
    assert first.values.dtype == second.values.dtype == torch.int8
    assert first.scheme == second.scheme


def test_other_values_or_another_scheme_or_version_are_rounded(
    rounding: Rounding, counted: Counted, store: DiskStore
) -> None:
    scheme = Scheme(4, 32)
    rounding(WEIGHT, scheme)
    rounding(WEIGHT, Scheme(4, 16))
    rounding(WEIGHT, Scheme(8, 32))
    rounding(WEIGHT.bfloat16(), scheme)
    rounding(WEIGHT.view(32, 32), scheme)
    nudged = WEIGHT.clone()
    nudged[3, 5] += 1e-6
    rounding(nudged, scheme)
    remembered(counted, "counted", store, {"version": 2})(WEIGHT, scheme)
    assert counted.calls == 7


def test_a_damaged_entry_is_rounded_again(
    rounding: Rounding, counted: Counted, store: DiskStore
) -> None:
    rounding(WEIGHT, Scheme(4, 32))
    (entry,) = store.entries()
    (entry.path / "codes.safetensors").write_bytes(b"short")
    assert torch.equal(
        rounding(WEIGHT, Scheme(4, 32)).values, half_a_step_beyond(WEIGHT, Scheme(4, 32)).values
    )
    assert counted.calls == 2


def test_a_quick_rounding_is_done_again_instead(store: DiskStore) -> None:
    rounding = remembered(least_squares, least_squares.__name__, store, {"version": 1})
    rounding(WEIGHT, Scheme(4, 32))
    assert store.entries() == []
    assert half_quadratic.__name__ not in QUICK
