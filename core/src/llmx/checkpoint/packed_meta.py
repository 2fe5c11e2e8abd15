"""Weights that Meta published quantized (SpinQuant, and QAT with LoRA), beside ``params.json``.

``X.weight`` is int8 [out, in] and ``X.scales`` holds one scale per group of a row, or one per
row; ``X.zeros`` are all 0. Layers have 4-bit codes in groups, the head and the embedding 8-bit
codes per row.
Source: https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/MODEL_CARD.md
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.integers import IntegerWeight
from llmx.checkpoint.packed import PackedWeight, Reader
from llmx.errors import CheckpointError

INTEGER_TYPES = ("int8", "i8")
LOWEST_INT4, HIGHEST_INT4 = -8, 7


def meta_packed(checkpoint: Checkpoint) -> Mapping[str, PackedWeight]:
    """The weights that have scales; empty for a checkpoint of floats."""
    weights = {}
    for name, info in checkpoint.tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or info.dtype not in INTEGER_TYPES:
            continue
        parts = {"weight": name, "scales": f"{layer}.scales"}
        if parts["scales"] not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.source}: {name} is stored as int8 without {parts['scales']}",
                remedy="Use the checkpoint with its scales, or the model before quantization.",
            )
        if f"{layer}.zeros" in checkpoint.tensors:
            parts["zeros"] = f"{layer}.zeros"
        shape = (info.shape[0], info.shape[1])
        weights[name] = PackedWeight(
            TensorInfo(shape, "int8"), parts, partial(_assemble, layer, "zeros" in parts)
        )
    return weights


def _assemble(layer: str, with_zeros: bool, read: Reader) -> IntegerWeight:
    codes = read("weight")
    scales = read("scales").float().reshape(len(codes), -1)
    if with_zeros and bool(read("zeros").any()):
        raise CheckpointError(
            f"{layer}.zeros are not 0, which this format does not use",
            remedy="Use a symmetrically quantized checkpoint.",
        )
    low, high = int(codes.min()), int(codes.max())
    bits = 4 if low >= LOWEST_INT4 and high <= HIGHEST_INT4 else 8
    return IntegerWeight(codes, scales, None, bits, f"int{bits}")
