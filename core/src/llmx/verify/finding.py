"""What a check found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor


@frozen
class Finding:
    """The outcome of one check.

    Attributes:
        passed: ``None`` if it could not be made; ``detail`` says why.
        figure: must not exceed ``bound``; ``None`` where there is nothing to measure.
    """

    name: str
    passed: bool | None
    figure: float | None = None
    bound: float | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


Findings = Iterator[Finding]


def measured(name: str, figure: float, bound: float, detail: str = "") -> Finding:
    """Passed if ``figure`` is at most ``bound``; not a number counts as infinite."""
    figure = float("inf") if math.isnan(figure) else figure
    return Finding(name, figure <= bound, figure, bound, detail)


def skipped(name: str, reason: str) -> Finding:
    return Finding(name, None, detail=reason)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Root mean square difference of logits over the deviation of ``expected``.

    Tokens that are never said, of minus infinity, must be the same, and count no further.
    """
    said = ~expected.isneginf()
    if not torch.equal(~actual.isneginf(), said):
        return math.inf
    actual, expected = actual[said], expected[said]
    return float((actual - expected).square().mean().sqrt() / expected.std())


def divergence(actual: Tensor, expected: Tensor) -> float:
    """Kullback-Leibler divergence of the predictions [vocab] from the expected ones, in nats."""
    said = ~expected.isneginf()
    logs = torch.log_softmax(expected.double(), -1)
    differences = logs - torch.log_softmax(actual.double(), -1)
    return float((logs.exp() * differences)[said].sum())
