"""Weights quantized by GPTQ or AWQ, as Hugging Face checkpoints hold them.

Eight 4-bit numbers (or four 8-bit, sixteen 2-bit ones) share an int32. With ``in`` input and
``out`` output channels, ``p`` numbers per int32 and ``g`` groups:

GPTQ: qweight [in / p, out] (first channel lowest), qzeros [g, out / p] (stored less one, unless
``checkpoint_format`` is ``gptq_v2``), scales [g, out], g_idx [in] (the group of each channel).
AWQ (``version: gemm``): qweight [in, out / 8], qzeros [g, out / 8], scales [g, out]; the eight
output channels of an int32 lie in the order 0, 2, 4, 6, 1, 3, 5, 7.
``w[i, o] = scales[g, o] * (q[i, o] - zero[g, o])`` in both.
Sources: https://arxiv.org/abs/2210.17323 and https://arxiv.org/abs/2306.00978, and the layouts
that AutoGPTQ and AutoAWQ write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.integers import IntegerWeight
from llmx.checkpoint.packed import PackedWeight, Reader
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PACKED_BITS = 32
GPTQ_BITS = (2, 4, 8)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CODES = "qweight"


@frozen
class Packing:
    """How one method lays out codes, zero points and scales.

    ``unpack`` gives codes from 0 up, [out, in], and zero points [out, groups].
    """

    name: str
    bits: int
    parts: tuple[str, ...]
    shape: Callable[[tuple[int, ...]], tuple[int, int]]
    unpack: Callable[[Reader], tuple[Tensor, Tensor]]


def hf_packed(checkpoint: Checkpoint) -> Mapping[str, PackedWeight]:
    """The weights of a checkpoint whose ``config.json`` says that it was quantized so.

    Raises:
        CheckpointError: another variant of these methods, or a layer lacks a part.
    """
    described = checkpoint.config["quantization_config"]
    packing = PACKINGS[described["quant_method"]](checkpoint.source, described)
    weights = {}
    for name, info in checkpoint.tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != CODES:
            continue
        parts = {part: f"{layer}.{part}" for part in packing.parts}
        # Not all tools write the groups of columns that lie in order anyway.
        if parts.get("g_idx") not in checkpoint.tensors:
            parts.pop("g_idx", None)
        absent = [part for part in parts.values() if part not in checkpoint.tensors]
        if absent:
            raise CheckpointError(
                f"{checkpoint.source} has {name} but not {', '.join(absent)}",
                remedy="Fetch the checkpoint again: it is incomplete.",
            )
        stored = TensorInfo(packing.shape(info.shape), packing.name)
        weights[f"{layer}.weight"] = PackedWeight(
            stored, parts, partial(_assemble, packing, "g_idx" in parts)
        )
    return weights


def _assemble(packing: Packing, indexed: bool, read: Reader) -> IntegerWeight:
    import torch

    codes, zeros = packing.unpack(read)
    scales = read("scales").float().t().contiguous()
    centre = 1 << packing.bits - 1
    offsets = scales * (centre - zeros)
    columns = read("g_idx").long() if indexed else None
    in_order = torch.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])
    return IntegerWeight(
        codes=(codes - centre).to(torch.int8),
        scales=scales,
        offsets=offsets if bool((zeros != centre).any()) else None,
        bits=packing.bits,
        stored=packing.name,
        group_of_column=None if columns is None or torch.equal(columns, in_order) else columns,
    )


def _gptq(source: str, described: Mapping[str, Any]) -> Packing:
    bits = described.get("bits")
    if bits not in GPTQ_BITS:
        raise CheckpointError(
            f"{source} is quantized by GPTQ to {bits} bits; only "
            f"{', '.join(map(str, GPTQ_BITS))} can be read",
            remedy="Use a checkpoint with one of these, or the model before quantization.",
        )
    per_word = PACKED_BITS // bits
    zero_of_stored = 0 if described.get("checkpoint_format") == "gptq_v2" else 1

    def unpack(read: Reader) -> tuple[Tensor, Tensor]:
        codes = _numbers(read("qweight"), bits, dim=0).t().contiguous()
        zeros = _numbers(read("qzeros"), bits, dim=1).t()
        # Stored less one, modulo the number of codes.
        return codes, (zeros + zero_of_stored) % (1 << bits)

    return Packing(
        name=f"gptq int{bits}",
        bits=bits,
        parts=(CODES, "qzeros", "scales", "g_idx"),
        shape=lambda words: (words[1], words[0] * per_word),
        unpack=unpack,
    )


def _awq(source: str, described: Mapping[str, Any]) -> Packing:
    bits, version = described.get("bits"), str(described.get("version", "gemm")).lower()
    if bits != 4 or version != "gemm":
        raise CheckpointError(
            f"{source} is quantized by AWQ to {bits} bits in the {version} layout; "
            "only 4 bits in the gemm layout can be read",
            remedy="Use a checkpoint of that kind, or the model before quantization.",
        )

    def unpack(read: Reader) -> tuple[Tensor, Tensor]:
        codes, zeros = (_in_order(_numbers(read(part), 4, dim=1)) for part in (CODES, "qzeros"))
        return codes.t().contiguous(), zeros.t()

    return Packing(
        name="awq int4",
        bits=4,
        parts=(CODES, "qzeros", "scales"),
        shape=lambda words: (words[1] * 8, words[0]),
        unpack=unpack,
    )


PACKINGS: Mapping[str, Callable[[str, Mapping[str, Any]], Packing]] = {"gptq": _gptq, "awq": _awq}


def _numbers(words: Tensor, bits: int, *, dim: int) -> Tensor:
    """The numbers in int32 words, lowest bits first, spread along ``dim``; int16."""
    import torch

    shifts = torch.arange(0, PACKED_BITS, bits, dtype=torch.int32)
    spread = words.unsqueeze(dim + 1) >> shifts.view(-1, *(1,) * (words.ndim - dim - 1))
    numbers: Tensor = (spread & ((1 << bits) - 1)).to(torch.int16).flatten(dim, dim + 1)
    return numbers


def _in_order(numbers: Tensor) -> Tensor:
    """[…, out] with each eight columns back from AWQ's order."""
    import torch

    stored = torch.empty(8, dtype=torch.int64)
    stored[list(AWQ_ORDER)] = torch.arange(8)
    return numbers.view(len(numbers), -1, 8)[:, :, stored].flatten(1)
