"""Linear layers that compute a block of rows at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx.run.large_linears import large_linears_in_blocks

SCHEME = Scheme(bits=4, group=32, activations="int8")


def test_blocks_give_what_the_whole_gives() -> None:
    rounded = nn.Linear(64, 1000)
    rounded = affine_linear(rounded, largest_value(rounded.weight.detach(), SCHEME))
    for linear in (nn.Linear(64, 1000), nn.Linear(64, 1000, bias=False), rounded):
        model, x = nn.Sequential(linear), torch.randn(1, 3, 64)
        with torch.no_grad():
            expected = model(x)
            with large_linears_in_blocks(model, large=64 * 99, block=64 * 7):
                assert "forward" in vars(linear)
                torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)
        assert "forward" not in vars(linear)


def test_what_is_not_large_stays_whole() -> None:
    linear = nn.Linear(64, 10)
    with large_linears_in_blocks(nn.Sequential(linear), large=640):
        assert "forward" not in vars(linear)


MEASURED = """
import torch
from torch import nn
from llmx.memory import AddedMemory
from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx.run.large_linears import large_linears_in_blocks

linear = nn.Linear(1024, 65536, bias=False)
model = nn.Sequential(affine_linear(linear, largest_value(linear.weight.detach(), {scheme})))
del linear
x = torch.randn(12, 1024)
# From here on glibc takes blocks of this size from its heap, among what stays.
torch.empty(31 << 20, dtype=torch.uint8).fill_(0)
with torch.no_grad(), large_linears_in_blocks(model, large=1 << 20, block={block}):
    added = AddedMemory()
    model(x)
print(added.peak())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no peaks on this system")
def test_blocks_are_not_kept_beside_each_other() -> None:
    block = 1 << 19
    script = MEASURED.format(scheme=repr(SCHEME), block=block)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    assert int(said) < 8 * block * torch.float32.itemsize
