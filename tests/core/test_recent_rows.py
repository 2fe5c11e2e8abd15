"""The last rows of a sequence: whole or in pieces, and nothing of an earlier text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llmx.model.ops import plain_ops
from llmx.model.recent import RecentRows

X = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))


def fed(core: nn.Module, x: Tensor, pieces: list[int]) -> Tensor:
    """What the core puts before each piece, and the piece: [1, count + S, 4] of each, joined."""
    out, start = [], 0
    for length in pieces:
        positions = torch.arange(start, start + length)
        piece = x[:, start : start + length]
        out.append(core(piece, core.place(positions, start, None)))
        start += length
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("pieces", [[9], [1] * 9, [1, 2, 4, 2]])
def test_each_piece_follows_the_rows_before_it(pieces: list[int]) -> None:
    padded = torch.cat((torch.zeros(1, 2, 4), X), dim=1)
    ends = torch.tensor(pieces).cumsum(0).tolist()
    expected = [padded[:, end - length : end + 2] for end, length in zip(ends, pieces, strict=True)]
    actual = fed(RecentRows(2, 4, torch.float32), X, pieces)
    torch.testing.assert_close(actual, torch.cat(expected, dim=1), atol=0, rtol=0)


def test_a_new_text_begins_with_nothing_even_after_infinity() -> None:
    core = RecentRows(2, 4, torch.float32)
    fresh = fed(core, X, [3, 6])
    fed(core, torch.full_like(X, torch.inf), [9])
    torch.testing.assert_close(fed(core, X, [3, 6]), fresh, atol=0, rtol=0)


def test_without_a_cache_every_call_is_a_text() -> None:
    ops = plain_ops(kv_cache=False, fused_attention=False, int8_cache=False)
    core = ops.recent(2, 4, torch.float32)
    assert not list(core.buffers())
    joined = core(X, core.place(torch.arange(9), 0, None))
    torch.testing.assert_close(joined, torch.cat((torch.zeros(1, 2, 4), X), dim=1))
