"""Rounding a weight so that its layer's output changes least, not the weight itself.

Second-order rounding (GPTQ, Frantar et al., https://arxiv.org/abs/2210.17323) with scales that are
fixed beforehand, so that columns may be taken in any order; then scales and integers are refined
in turns: least squares for the scales, coordinate descent for the integers (QuantEase, Behdin et
al., https://arxiv.org/abs/2309.01885).

Throughout, the loss of rounded weights Q [rows, width] is ``tr((Q - W) H (Q - W)^T)``, where H
[width, width] is the mean of ``x x^T`` over the layer's inputs: the mean squared change of output.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from llmx.quantize.codes import Codes, scale_dtype
from llmx.quantize.plan import Scheme

BLOCK = 64
TINY = torch.finfo(torch.float32).tiny
MOST_ROWS = 1 << 16
"""Rows times groups that are worked on at a time."""
SHRINKING = tuple(1.1 - 0.6 * step / 40 for step in range(40))
"""Tried scales, as parts of the one that puts a group's largest value on the last code."""


@frozen
class Gptq:
    """How hard to try.

    ``damping``: added to the diagonal of H, as a part of its mean: how little the inputs are
    trusted to be typical. ``refinements``: turns of least squares and coordinate descent.
    """

    damping: float = 0.01
    refinements: int = 2

    def __call__(self, weight: Tensor, moments: Tensor, scheme: Scheme) -> Codes:
        """Integers and scales for a weight [rows, width] whose inputs have second moments H.

        Columns whose inputs are always 0 are rounded to the nearest.
        """
        curvature = _damped(moments, self.damping)
        order = curvature.diagonal().argsort(descending=True, stable=True)
        factor = _corrections(curvature[order][:, order]).to(weight.dtype)
        groups = weight.shape[1] // scheme.group
        parts = []
        # Rows are independent of each other: a few at a time need little memory.
        for rows in torch.split(weight, max(MOST_ROWS // groups, 1)):
            scales = _searched_scales(rows, curvature.diagonal(), scheme)
            values = _round_in_order(rows, order, factor, scales, scheme)
            for _ in range(self.refinements):
                scales = _fitted_scales(rows, curvature, values, scales, scheme)
                values = _descend(rows, curvature, values, scales, scheme)
            parts.append((values.to(torch.int8), scales.to(scale_dtype(scheme))))
        integers, steps = zip(*parts, strict=True)
        return Codes(torch.cat(integers), torch.cat(steps), scheme)


def relative_output_error(codes: Codes, weight: Tensor, moments: Tensor) -> float:
    """Root mean square change of a layer's output over its root mean square, given H."""
    change = codes.dequantize() - weight
    total = ((weight @ moments) * weight).sum()
    return float((((change @ moments) * change).sum() / total).sqrt()) if total else 0.0


def _damped(moments: Tensor, damping: float) -> Tensor:
    """H with a part of its mean diagonal added, so that it can be inverted."""
    diagonal = moments.diagonal()
    floor = damping * diagonal.mean().clamp_min(TINY)
    return moments + torch.diag_embed(floor.expand_as(diagonal))


def _searched_scales(weight: Tensor, importance: Tensor, scheme: Scheme) -> Tensor:
    """The best of a few scales per group [rows, groups] by error weighted with H's diagonal."""
    grouped = weight.view(len(weight), -1, scheme.group)
    weights = importance.view(1, -1, scheme.group)
    largest = grouped.abs().amax(-1) / ((1 << scheme.bits - 1) - 0.5)
    best = torch.full_like(largest, torch.inf)
    chosen = largest
    for part in SHRINKING:
        scales = _representable(largest * part, scheme)
        error = _nearest(grouped, scales.unsqueeze(-1), scheme) * scales.unsqueeze(-1) - grouped
        loss = (error.square() * weights).sum(-1)
        better = loss < best
        best = torch.where(better, loss, best)
        chosen = torch.where(better, scales, chosen)
    return chosen


def _representable(scales: Tensor, scheme: Scheme) -> Tensor:
    return scales.clamp_min(TINY).to(scale_dtype(scheme)).float()


def _nearest(values: Tensor, scales: Tensor, scheme: Scheme) -> Tensor:
    limit = 1 << scheme.bits - 1
    return (values / scales).round_().clamp_(-limit, limit - 1)


def _corrections(curvature: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse: row by row, how an error moves later columns."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature.double()))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _round_in_order(
    weight: Tensor, order: Tensor, factor: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """Round column by column, the most active first; each corrects those that follow."""
    width = weight.shape[1]
    steps = scales.repeat_interleave(scheme.group, 1)[:, order]
    remaining = weight[:, order]
    values = torch.empty_like(remaining)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        block, errors = remaining[:, start:end].clone(), torch.empty(len(weight), end - start)
        for at in range(end - start):
            column = start + at
            code = _nearest(block[:, at], steps[:, column], scheme)
            error = (block[:, at] - code * steps[:, column]) / factor[column, column]
            block[:, at + 1 :] -= torch.outer(error, factor[column, column + 1 : end])
            values[:, column], errors[:, at] = code, error
        remaining[:, end:] -= errors @ factor[start:end, end:]
    return values[:, order.argsort()]


def _fitted_scales(
    weight: Tensor, curvature: Tensor, values: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """Scales of least loss for given integers, row by row; as they were where that is no better."""
    rows, groups = scales.shape
    grouped = (rows, groups, scheme.group)
    normal = torch.empty(rows, groups, groups)
    for group in range(groups):
        columns = slice(group * scheme.group, (group + 1) * scheme.group)
        response = values[:, columns] @ curvature[columns]
        normal[:, group] = (response * values).view(grouped).sum(-1)
    wanted = ((weight @ curvature) * values).view(grouped).sum(-1)
    current = _times(normal, scales)
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    stable = normal + torch.diag_embed(ridge.clamp_min(TINY).expand_as(scales))
    fitted = scales + torch.linalg.solve(stable, wanted - current)
    # A scale far from where it was belongs to a group that hardly matters.
    sane = (fitted > 0.5 * scales) & (fitted < 2 * scales)
    fitted = _representable(torch.where(sane, fitted, scales), scheme)
    before = (scales * (current - 2 * wanted)).sum(-1, keepdim=True)
    after = (fitted * (_times(normal, fitted) - 2 * wanted)).sum(-1, keepdim=True)
    return torch.where(after < before, fitted, scales)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _descend(
    weight: Tensor, curvature: Tensor, values: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """One round of giving each column the integers that are best for what all others are."""
    width = weight.shape[1]
    steps = scales.repeat_interleave(scheme.group, 1)
    values, rounded = values.clone(), values * steps
    slope = (rounded - weight) @ curvature
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        local, within = slope[:, start:end].clone(), curvature[start:end, start:end]
        changes = torch.empty(len(weight), end - start)
        for at in range(end - start):
            column = start + at
            best = rounded[:, column] - local[:, at] / within[at, at]
            code = _nearest(best, steps[:, column], scheme)
            change = code * steps[:, column] - rounded[:, column]
            local[:, at + 1 :] += torch.outer(change, within[at, at + 1 :])
            values[:, column], changes[:, at] = code, change
        slope += changes @ curvature[start:end]
    return values
