"""A cache for each key/value head gives what one for all of them gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.test_fused_projections import all_fused, quantize_projections
from tests.core.test_last_token import KINDS, decoder, logits

from llmx.model.attention import in_groups, together
from llmx.model.kv_cache import cache_bytes, cores_of
from llmx.model.params import Sinks

CACHED = {
    **KINDS,
    "plain attention": ({}, {}, {"fused_attention": False}),
    "plain attention, windows": ({}, {"windows": (8,)}, {"fused_attention": False}),
    "plain attention, int8 cache": ({}, {}, {"fused_attention": False, "int8_cache": True}),
}


@pytest.mark.parametrize("kind", CACHED.values(), ids=CACHED)
def test_logits_are_the_same(kind: tuple[Any, Any, Any]) -> None:
    together, apart = decoder(*kind), decoder(*kind, heads_apart=True)
    (one, *_), (other, *_) = cores_of(together), cores_of(apart)
    assert one.k_cache.shape[:3:2] == (1, 2)
    assert other.k_cache.shape[:3:2] == (2, 1)
    assert cache_bytes(together) == cache_bytes(apart)
    torch.testing.assert_close(logits(apart), logits(together), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounded", [False, True], ids=["float", "4 bits"])
@pytest.mark.parametrize("kind", CACHED.values(), ids=CACHED)
def test_projections_are_fused_all_the_same(kind: tuple[Any, Any, Any], rounded: bool) -> None:
    model = decoder(*kind, heads_apart=True)
    if rounded:
        quantize_projections(model)
    expected = logits(model)
    torch.testing.assert_close(logits(all_fused(model)), expected, rtol=1e-5, atol=1e-5)
    assert all(map(torch.equal, logits(model), expected))


def test_sinks_are_turned_for_all_heads_at_once() -> None:
    build = {"sinks": Sinks(2, 8), "longest_call": 40}
    one, other = decoder({}, build), decoder({}, build, heads_apart=True)
    assert all(map(torch.equal, logits(one), logits(other)))


def test_groups_are_beside_each_other_again() -> None:
    x = torch.randn(1, 5, 6, 4)
    assert in_groups(x, 3).shape == (3, 5, 2, 4)
    assert torch.equal(in_groups(x, 3)[1, :, 0], x[0, :, 2])
    for groups in (1, 2, 3, 6):
        assert torch.equal(together(in_groups(x, groups)), x.reshape(1, 5, 24))
