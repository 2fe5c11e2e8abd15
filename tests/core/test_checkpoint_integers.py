"""Integers of GGUF blocks: codes, scales and offsets say exactly what the gguf package expands."""

from __future__ import annotations

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch

from llmx.checkpoint.gguf_blocks import BLOCKS, integer_weight
from llmx.checkpoint.integers import IntegerWeight

# fp16 numbers in each block, by their first byte; everything else may hold any bits.
HALVES = {
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
    "Q8_0": (0,),
    "Q4_0": (0,),
    "Q5_0": (0,),
}
ROWS, BLOCKS_PER_ROW = 3, 2


def random_blocks(name: str, seed: int = 0) -> np.ndarray:
    """Rows of blocks of arbitrary bits, with scales of both signs."""
    rng = np.random.default_rng(seed)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = rng.integers(0, 256, (ROWS, BLOCKS_PER_ROW, size), dtype=np.uint8)
    for start in HALVES.get(name, (0, 2)):
        half = rng.standard_normal((ROWS, BLOCKS_PER_ROW, 1)).astype(np.float16)
        blocks[..., start : start + 2] = half.view(np.uint8)
    return blocks.reshape(ROWS, -1)


def entry(name: str, data: np.ndarray) -> SimpleNamespace:
    kind = gguf.GGMLQuantizationType[name]
    return SimpleNamespace(tensor_type=kind, data=data, shape=(0, 0))


@pytest.mark.parametrize("name", BLOCKS)
def test_integers_say_what_the_gguf_package_expands(name: str) -> None:
    data = random_blocks(name)
    weight = integer_weight(entry(name, data))
    assert weight is not None
    expected = torch.from_numpy(gguf.dequantize(data, gguf.GGMLQuantizationType[name]))
    # A minimum that was added to the codes' product may round once more.
    torch.testing.assert_close(weight.dequantize(), expected, rtol=1e-6, atol=1e-4)
    if weight.offsets is None:
        assert torch.equal(weight.dequantize(), expected)


@pytest.mark.parametrize("name", BLOCKS)
def test_codes_are_of_the_formats_range_and_groups(name: str) -> None:
    weight = integer_weight(entry(name, random_blocks(name)))
    assert weight is not None
    assert weight.stored == name.lower()
    assert weight.group == (16 if name in ("Q2_K", "Q3_K", "Q6_K") else 32)
    assert int(weight.codes.min()) >= -(2 ** (weight.bits - 1))
    assert int(weight.codes.max()) <= 2 ** (weight.bits - 1) - 1
    assert int(name[1]) == weight.bits


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1"])
def test_blocks_of_zeros_are_zeros(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    zeros = gguf.quantize(np.zeros((2, 64), np.float32), kind)
    weight = integer_weight(entry(name, zeros))
    assert weight is not None
    assert not weight.dequantize().any()


def test_formats_that_are_no_integers_in_groups_stay_floats() -> None:
    data = np.zeros((1, 18), np.uint8)
    assert integer_weight(entry("IQ4_NL", data)) is None


def test_rows_are_selected_with_their_scales() -> None:
    data = random_blocks("Q4_1")
    weight = integer_weight(entry("Q4_1", data))
    assert weight is not None
    order = torch.tensor([2, 0])
    assert torch.equal(weight[order].dequantize(), weight.dequantize()[order])
    assert torch.equal(weight[1:].dequantize(), weight.dequantize()[1:])


def test_scattered_groups_follow_their_index() -> None:
    weight = IntegerWeight(
        codes=torch.tensor([[1, 2, 3, 4]], dtype=torch.int8),
        scales=torch.tensor([[10.0, 100.0]]),
        offsets=torch.tensor([[0.5, 0.25]]),
        bits=4,
        stored="made",
        group_of_column=torch.tensor([1, 0, 0, 1]),
    )
    assert weight.dequantize().tolist() == [[100.25, 20.5, 30.5, 400.25]]
