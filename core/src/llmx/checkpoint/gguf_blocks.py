"""The integers inside GGUF's quantized blocks.

The gguf package expands blocks to floats but does not tell codes and scales apart. The simplest
formats are read here; for the others, both follow from expanding blocks whose codes were replaced:
all zero, and all one.
Block layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.checkpoint.integers import IntegerWeight

if TYPE_CHECKING:
    import numpy as np


@frozen
class Block:
    """Where a block keeps its codes, in bytes [start, stop).

    Attributes:
        bits: of a code.
        group: weights that share a scale.
        codes: the bytes that hold codes.
        ones: the part of them that makes every code 1 more than all zeros do, and the byte to
            fill it with.
        minimum: the bytes that hold the groups' minimum or its scale; ``None`` for formats whose
            codes are centred.
    """

    bits: int
    group: int
    codes: tuple[int, int]
    ones: tuple[int, int, int]
    minimum: tuple[int, int] | None = None


BLOCKS: Mapping[str, Block] = {
    "Q4_0": Block(4, 32, (2, 18), (2, 18, 0x11)),
    "Q4_1": Block(4, 32, (4, 20), (4, 20, 0x11), (2, 4)),
    "Q5_0": Block(5, 32, (2, 22), (6, 22, 0x11)),
    "Q5_1": Block(5, 32, (4, 24), (8, 24, 0x11), (2, 4)),
    "Q8_0": Block(8, 32, (2, 34), (2, 34, 0x01)),
    "Q2_K": Block(2, 16, (16, 80), (16, 80, 0x55), (82, 84)),
    "Q3_K": Block(3, 16, (0, 96), (32, 96, 0x55)),
    "Q4_K": Block(4, 32, (16, 144), (16, 144, 0x11), (2, 4)),
    "Q5_K": Block(5, 32, (16, 176), (48, 176, 0x11), (2, 4)),
    "Q6_K": Block(6, 16, (0, 192), (0, 128, 0x11)),
}

PLAIN = ("Q4_0", "Q4_1", "Q8_0")
"""Blocks of an fp16 scale, maybe an fp16 minimum, and codes: bytes, or halves of bytes."""


def integer_weight(entry: Any) -> IntegerWeight | None:
    """The codes and scales of a tensor of a GGUF file; ``None`` if its blocks are no such thing.

    Args:
        entry: a matrix, as ``gguf.GGUFReader`` gives it.
    """
    import torch

    from llmx.parallel import map_parallel, row_blocks

    block = BLOCKS.get(entry.tensor_type.name)
    if block is None or len(entry.shape) != 2:
        return None
    kind, data = entry.tensor_type, entry.data
    read = _read_plain if kind.name in PLAIN else _probe
    parts = map_parallel(lambda rows: read(data[rows], kind, block), row_blocks(data.shape))
    codes, scales, offsets = (
        torch.from_numpy(joined) for joined in map(_joined, zip(*parts, strict=True))
    )
    return IntegerWeight(
        codes,
        scales,
        None if block.minimum is None else offsets,
        block.bits,
        entry.tensor_type.name.lower(),
    )


def _joined(parts: tuple[np.ndarray[Any, Any], ...]) -> np.ndarray[Any, Any]:
    import numpy as np

    return np.concatenate(parts)


def _read_plain(
    data: np.ndarray[Any, Any], kind: Any, block: Block
) -> tuple[np.ndarray[Any, Any], ...]:
    """codes int8 [rows, in], scales and offsets fp32 [rows, groups]."""
    import gguf
    import numpy as np

    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = np.ascontiguousarray(data).reshape(len(data), -1, size)
    floats = blocks[..., : block.codes[0]].copy().view(np.float16).astype(np.float32)
    scales, stored = np.ascontiguousarray(floats[..., 0]), blocks[..., slice(*block.codes)]
    centre = 1 << block.bits - 1
    if block.bits == 8:
        codes = stored.view(np.int8)
    else:
        # Low halves of all bytes first, then the high ones.
        halves = np.concatenate([stored & 0x0F, stored >> 4], axis=-1)
        codes = halves.view(np.int8) - np.int8(centre)
    offsets = np.zeros_like(scales)
    if block.minimum is not None:
        offsets = floats[..., 1] + centre * scales
    return codes.reshape(len(data), -1), scales, offsets


def _probe(data: np.ndarray[Any, Any], kind: Any, block: Block) -> tuple[np.ndarray[Any, Any], ...]:
    """The same as ``_read_plain``, of a format that only the gguf package knows to expand."""
    import gguf
    import numpy as np

    size = gguf.GGML_QUANT_SIZES[kind][1]

    def first_of_groups(*, codes: bool, minimum: bool) -> np.ndarray[Any, Any]:
        blocks = np.array(data).reshape(len(data), -1, size)
        blocks[..., slice(*block.codes)] = 0
        if codes:
            start, stop, filler = block.ones
            blocks[..., start:stop] = filler
        if block.minimum is not None and not minimum:
            blocks[..., slice(*block.minimum)] = 0
        expanded = gguf.dequantize(blocks.reshape(data.shape), kind)
        return np.ascontiguousarray(expanded[:, :: block.group], dtype=np.float32)

    scales = first_of_groups(codes=True, minimum=False)
    scales -= first_of_groups(codes=False, minimum=False)
    values = gguf.dequantize(data, kind).reshape(*scales.shape, block.group)
    divisor = np.where(scales == 0, 1, scales)[..., None]
    if block.minimum is None:
        codes, offsets = np.rint(values / divisor), np.zeros_like(scales)
    else:
        # Codes count from the minimum there: centre them.
        centre = 1 << block.bits - 1
        minima = first_of_groups(codes=False, minimum=True)
        codes = np.rint((values - minima[..., None]) / divisor) - centre
        offsets = minima + centre * scales
    return codes.astype(np.int8).reshape(len(data), -1), scales, offsets
