"""Qwen2.5 and Qwen3 compute what Hugging Face's implementations compute."""

from __future__ import annotations

from typing import Any

import pytest

from llmx.plugins import load
from llmx.testing import FamilyConformance
from llmx.testing.reference import hf_fields

WINDOW_OFF = {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 21}
# The hub's counts of the safetensors files; a head that is stored though tied is left out.
QWEN2_5 = {
    "0.5b": 494_032_768,
    "1.5b": 1_543_714_304,
    "3b": 3_085_938_688,
    "7b": 7_615_616_512,
    "14b": 14_770_033_664,
    "32b": 32_763_876_352,
    "coder-32b": 32_763_876_352,
}
QWEN3 = {
    "0.6b": 596_049_920,
    "1.7b": 1_720_574_976,
    "4b": 4_022_468_096,
    "8b": 8_190_735_360,
    "14b": 14_768_307_200,
    "32b": 32_762_123_264,
}


class TestQwen25(FamilyConformance):
    family = "qwen2_5"
    model_type = "qwen2"
    extra_fields = WINDOW_OFF
    published_counts = QWEN2_5


class TestQwen3(FamilyConformance):
    family = "qwen3"
    model_type = "qwen3"
    extra_fields = WINDOW_OFF
    published_counts = QWEN3


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 12}, 12),
        ({"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 24}, 0),
        ({"use_sliding_window": False, "sliding_window": 4096}, 0),
    ],
)
def test_the_upper_layers_have_a_window_where_the_configuration_says_so(
    fields: dict[str, Any], windows: int
) -> None:
    family = load("qwen2_5", None).family
    config = {**hf_fields(family.default_params(size="0.5b")), **fields}
    params = family.params_from_hf(config=config)
    found = [params.layer_window(layer) for layer in range(params.n_layers)]
    assert found == [None] * (24 - windows) + [4096] * windows
