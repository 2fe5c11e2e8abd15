"""Rounded weights by what they were rounded from: a change elsewhere does not round them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmx.cache.keys import digest
from llmx.cache.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.quantize.codes import Codes, Rounding
    from llmx.quantize.plan import Scheme

KIND = "weights"
FILE = "codes.safetensors"
QUICK = frozenset({"least_squares"})
"""Roundings that are done again: to hash a weight and to write its codes takes three quarters of
their own time, which every export of new weights would spend, and to read them a third."""


def remembered(
    rounding: Rounding, name: str, store: Store, toolchain: Mapping[str, Any]
) -> Rounding:
    """``rounding``, which looks first whether it has rounded the same values before.

    Worth it where rounding is slow: a weight's bytes are hashed, and its codes read or written.
    ``name`` tells it from other ways to round; the ``QUICK`` ones are given back as they are.
    """
    if name in QUICK:
        return rounding

    def look_or_round(weight: Tensor, scheme: Scheme) -> Codes:
        key = digest([name, toolchain, repr(scheme), _digest(weight)])
        found = store.find(KIND, key)
        codes = None if found is None else _read(found, scheme)
        if codes is None:
            codes = rounding(weight, scheme)
            with store.keep(KIND, key) as folder:
                if folder is not None:
                    _write(codes, folder)
        return codes

    return look_or_round


def _digest(weight: Tensor) -> list[Any]:
    from llmx.parallel import map_parallel, row_blocks
    from llmx.skeleton.pieces import raw_bytes

    def block_digest(rows: slice) -> str:
        return hashlib.sha256(raw_bytes(weight[rows])).hexdigest()

    content = map_parallel(block_digest, row_blocks(weight.shape))
    return [digest(content), list(weight.shape), str(weight.dtype)]


def _write(codes: Codes, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from llmx.parallel import map_parallel, row_blocks
    from llmx.quantize.codes import pack

    bits, values = codes.scheme.bits, codes.values
    if _fills_bytes(bits):
        blocks = row_blocks(values.shape)
        parts = map_parallel(lambda rows: pack(values[rows], bits, "first low"), blocks)
        values = torch.cat(parts)
    tensors = {"codes": values.contiguous(), "scales": codes.scales.contiguous()}
    save_file(tensors, str(folder / FILE))


def _read(folder: Path, scheme: Scheme) -> Codes | None:
    """``None`` if the entry is damaged, or vanished meanwhile."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from llmx.quantize.codes import Codes, unpack

    try:
        tensors = load_file(str(folder / FILE))
        values = tensors["codes"]
        if _fills_bytes(scheme.bits):
            values = unpack(values, scheme.bits, "first low")
        return Codes(values, tensors["scales"], scheme)
    except (OSError, SafetensorError, KeyError):
        return None


def _fills_bytes(bits: int) -> bool:
    return 8 % bits == 0
