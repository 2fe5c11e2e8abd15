"""What a check found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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


Judge = Callable[[str, Tensor, Tensor, str], Finding]
"""Holds logits [S, vocab] against the expected ones: check's name, both, and a detail to add."""

DIVERGENCE_BOUND = 1.5
"""Mean divergence in nats per token; plain 4-bit rounding of a small model makes about 0.8."""


def exact_judge(bound: float) -> Judge:
    """For programs that compute what the model computes, up to the order of sums."""
    return lambda name, actual, expected, detail: measured(
        name, distance(actual, expected), bound, detail
    )


def judge_predictions(name: str, actual: Tensor, expected: Tensor, detail: str) -> Finding:
    """For programs that are rounded to integers: their logits may be off, they say the like."""
    pairs = list(zip(actual, expected, strict=True))
    mean = sum(divergence(*pair) for pair in pairs) / len(pairs)
    agreeing = sum(int(a.argmax()) == int(b.argmax()) for a, b in pairs) / len(pairs)
    words = f"KL in nats a token; {agreeing:.0%} of the most likely tokens are the same"
    return measured(name, mean, DIVERGENCE_BOUND, f"{words}; {detail}" if detail else words)
