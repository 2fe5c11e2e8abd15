"""What became of every weight: bits, bytes and error, with nothing left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen
from torch import Tensor

from llmx.checkpoint import IntegerWeight
from llmx.parallel import map_parallel, row_blocks


@frozen(kw_only=True)
class WeightRecord:
    """One module's weights as they are in the program.

    ``bits`` is per weight without scales; ``group`` is ``None`` for float weights; ``error`` is
    the relative error ``|w - q| / |w|`` (Frobenius) that rounding made, 0 for float weights.
    ``output_error`` is the same of the layer's output on the calibration text, if there was one.
    ``stored`` is the checkpoint's own format where that is integers, else ``None``; ``obstacle``
    says why those could not stay as they are, ``None`` where they did.
    ``shares`` names the module whose integers it uses; ``stored_bytes`` is what it adds to them.
    """

    name: str
    kind: Literal["linear", "embedding", "other"]
    elements: int
    bits: int
    group: int | None
    stored_bytes: int
    error: float = 0.0
    output_error: float | None = None
    shares: str | None = None
    stored: str | None = None
    obstacle: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the checkpoint's own integers are in the program."""
        return self.stored is not None and self.obstacle is None


@frozen
class WeightSummary:
    """Totals over all modules; ``layers`` counts linears and embeddings, ``elements`` shared
    weights once."""

    layers: int
    quantized_layers: int
    elements: int
    stored_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return self.stored_bytes * 8 / self.elements


def summarize(records: Sequence[WeightRecord]) -> WeightSummary:
    """Totals of ``records``."""
    layers = [each for each in records if each.kind != "other"]
    return WeightSummary(
        layers=len(layers),
        quantized_layers=sum(each.group is not None for each in layers),
        elements=sum(each.elements for each in records if each.shares is None),
        stored_bytes=sum(each.stored_bytes for each in records),
    )


def relative_error(original: Tensor | IntegerWeight, restored: Callable[[slice], Tensor]) -> float:
    """Frobenius norm of the difference over that of ``original``.

    ``restored`` gives some rows; it is called from several threads.
    """

    def squares(rows: slice) -> tuple[float, float]:
        part = original[rows]
        block = part.dequantize() if isinstance(part, IntegerWeight) else part.float()
        return _sum_of_squares(restored(rows).float() - block), _sum_of_squares(block)

    parts = map_parallel(squares, row_blocks(original.shape))
    difference, total = (math.fsum(each) for each in zip(*parts, strict=True))
    return math.sqrt(difference / total) if total else 0.0


def _sum_of_squares(block: Tensor) -> float:
    flat = block.reshape(-1)
    return float(flat @ flat)


def import_notes(records: Sequence[WeightRecord]) -> list[str]:
    """What became of weights that the checkpoint stores as integers, for people to know."""
    kept = Counter(each.stored for each in records if each.kept)
    lost = Counter(
        (each.stored, each.bits, each.group is not None, each.obstacle)
        for each in records
        if each.obstacle is not None
    )
    notes = [
        f"{_layers(count)} kept as the checkpoint's {stored}" for stored, count in kept.items()
    ]
    for (stored, bits, quantized, obstacle), count in lost.items():
        became = (
            f"quantized again, to {bits} bits" if quantized else f"expanded to {bits}-bit floats"
        )
        notes.append(f"{_layers(count)} of {stored} {became}: {obstacle}")
    return notes


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count > 1 else ''}"
