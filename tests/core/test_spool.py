"""Weights on disk: the same tensors, without the memory."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llmx.memory import AddedMemory, give_back
from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx.spool import PAUSE, SMALLEST, Spool

MEGA = 1 << 20
SCHEME = Scheme(bits=4, group=32, activations="int8")


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def test_a_weight_keeps_its_identity_and_values(spool: Spool) -> None:
    linear = nn.Linear(512, 256)
    weight, values, before = linear.weight, linear.weight.detach().clone(), storage(linear.weight)
    spool.hold(linear)
    assert linear.weight is weight
    assert torch.equal(linear.weight, values)
    assert storage(linear.weight) != before


def test_small_tensors_stay_where_they_are(spool: Spool) -> None:
    linear = nn.Linear(SMALLEST // 4 // 32, 31)
    before = storage(linear.weight)
    spool.hold(linear)
    assert storage(linear.weight) == before


def test_a_quantized_weight_computes_the_same(spool: Spool) -> None:
    linear = nn.Linear(512, 256)
    quantized = affine_linear(linear, largest_value(linear.weight.detach(), SCHEME))
    x = torch.randn(1, 3, 512)
    expected = quantized(x)
    spool.hold(quantized)
    assert torch.equal(quantized(x), expected)


def test_views_of_one_tensor_share_a_file(spool: Spool) -> None:
    whole = torch.randn(512, 256)
    parts = [nn.Linear(256, 200, bias=False), nn.Linear(256, 312, bias=False)]
    for part, rows in zip(parts, torch.split(whole, [200, 312]), strict=True):
        part.weight = nn.Parameter(rows, requires_grad=False)
    spool.hold(*parts)
    assert storage(parts[0].weight) == storage(parts[1].weight) != storage(whole)
    assert torch.equal(torch.cat([part.weight for part in parts]), whole)


def test_what_is_on_disk_stays_there(spool: Spool) -> None:
    linear = nn.Linear(512, 256)
    spool.hold(linear)
    before = storage(linear.weight)
    spool.hold(linear)
    assert storage(linear.weight) == before


def test_no_file_is_left_behind(spool: Spool) -> None:
    spool.hold(nn.Linear(512, 256))
    assert list(spool.folder.iterdir()) == []


def test_memory_is_given_back_and_values_are_read_again(spool: Spool) -> None:
    # What earlier tests left would be found meanwhile, and hide what is added here.
    gc.collect()
    give_back()
    added = AddedMemory()
    if added.now() is None:
        pytest.skip("the system does not say how much memory is held")
    linears = nn.ModuleList(nn.Linear(1024, 4096, bias=False) for _ in range(8))
    total = [float(each.weight.detach().double().sum()) for each in linears]
    assert added.now() > 100 * MEGA
    spool.hold(*linears)
    assert added.now() < 60 * MEGA
    assert [float(each.weight.detach().double().sum()) for each in linears] == total
    assert added.now() > 100 * MEGA
    with spool.letting_go(linears), torch.no_grad():
        for each in linears:
            each(torch.ones(1, 1024))
    assert added.now() < 60 * MEGA


def test_memory_is_given_back_while_somebody_reads(spool: Spool) -> None:
    added = AddedMemory()
    if added.now() is None:
        pytest.skip("the system does not say how much memory is held")
    linears = nn.ModuleList(nn.Linear(1024, 4096, bias=False) for _ in range(8))
    total = [float(each.weight.detach().double().sum()) for each in linears]
    spool.hold(*linears)
    before = added.now()
    with spool.letting_go_meanwhile():
        assert [float(each.weight.detach().double().sum()) for each in linears] == total
        until = time.monotonic() + 20
        while added.now() > before + 30 * MEGA and time.monotonic() < until:
            time.sleep(PAUSE)
            give_back()
        assert added.now() < before + 30 * MEGA
        assert [float(each.weight.detach().double().sum()) for each in linears] == total


def test_nobody_lets_go_after_a_failure(spool: Spool) -> None:
    spool.hold(nn.Linear(256, 256))
    with pytest.raises(ZeroDivisionError), spool.letting_go_meanwhile():
        raise ZeroDivisionError
    assert not [each for each in threading.enumerate() if each.name.startswith("llmx-spool")]
