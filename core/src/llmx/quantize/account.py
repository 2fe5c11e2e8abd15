"""What became of every weight: bits, bytes and error, with nothing left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen


@frozen(kw_only=True)
class WeightRecord:
    """One module's weights as they are in the program.

    ``bits`` is per weight without scales; ``group`` is ``None`` for float weights; ``error`` is
    the relative error ``|w - q| / |w|`` (Frobenius) that rounding made, 0 for float weights.
    """

    name: str
    kind: Literal["linear", "embedding", "other"]
    elements: int
    bits: int
    group: int | None
    stored_bytes: int
    error: float = 0.0


@frozen
class WeightSummary:
    """Totals over all modules; ``layers`` counts linears and embeddings."""

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
        elements=sum(each.elements for each in records),
        stored_bytes=sum(each.stored_bytes for each in records),
    )
