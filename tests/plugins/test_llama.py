"""Llama 2, 3, 3.1 and 3.2 compute what Hugging Face's implementation computes."""

from __future__ import annotations

from llmx.plugins import load
from llmx.testing import FamilyConformance

# The hub's counts of the safetensors files.
LLAMA2 = {"7b": 6_738_415_616, "13b": 13_015_864_320}
LLAMA3 = {"8b": 8_030_261_248}
LLAMA3_1 = {"8b": 8_030_261_248, "70b": 70_553_706_496, "405b": 405_853_388_800}
LLAMA3_2 = {"1b": 1_235_814_400, "3b": 3_212_749_824}


class TestLlama2(FamilyConformance):
    family = "llama2"
    model_type = "llama"
    published_counts = LLAMA2


class TestLlama3(FamilyConformance):
    family = "llama3"
    model_type = "llama"
    published_counts = LLAMA3
    exported_sizes = ()  # the decoder of Llama 3.2, but for numbers


class TestLlama31(FamilyConformance):
    family = "llama3_1"
    model_type = "llama"
    published_counts = LLAMA3_1
    exported_sizes = ()  # the decoder of Llama 3.2, but for numbers


class TestLlama32(FamilyConformance):
    family = "llama3_2"
    model_type = "llama"
    published_counts = LLAMA3_2


def test_stories110m_is_a_size_of_llama2_under_its_old_name() -> None:
    family = load("stories110m", None).family
    assert family.default_params(size=None) == load("llama2", None).family.default_params(
        size="stories110m"
    )
