"""Rounded weights by what they were rounded from: a change elsewhere does not round them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.cache.keys import digest
from llmx.cache.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from llmx.quantize.calibrated import Rounded
    from llmx.quantize.codes import Codes, Rounding
    from llmx.quantize.plan import Scheme

KIND = "weights"
FILE = "codes.safetensors"
ERROR = "output_error"


def remembered(
    rounding: Rounding, name: str, store: Store, toolchain: Mapping[str, Any]
) -> Rounding:
    """``rounding``, which looks first whether it has rounded the same values before.

    Worth it where rounding is slow: a weight's bytes are hashed, and its codes read or written.
    ``name`` tells it from other ways to round.
    """

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


@frozen
class CalibratedCodes:
    """What calibrating gave under ``key``, weight by weight; see ``llmx.quantize.calibrated``."""

    store: Store
    key: str

    def find(self, name: str, scheme: Scheme) -> Rounded | None:
        """The codes and the error of a layer's output; ``None`` if they are not known."""
        found = self.store.find(KIND, digest([self.key, name]))
        codes = None if found is None else _read(found, scheme)
        if found is None or codes is None:
            return None
        try:
            return codes, float((found / ERROR).read_text())
        except (OSError, ValueError):
            return None

    def keep(self, name: str, rounded: Rounded) -> None:
        """Remember a weight's result."""
        codes, error = rounded
        with self.store.keep(KIND, digest([self.key, name])) as folder:
            if folder is not None:
                _write(codes, folder)
                (folder / ERROR).write_text(repr(error))


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
    if _several_fill_a_byte(bits):
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
        if _several_fill_a_byte(scheme.bits):
            values = unpack(values, scheme.bits, "first low")
        return Codes(values, tensors["scales"], scheme)
    except (OSError, SafetensorError, KeyError):
        return None


def _several_fill_a_byte(bits: int) -> bool:
    return bits < 8 and 8 % bits == 0
