"""Linear layers that compute a block of rows at a time."""

from __future__ import annotations

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
