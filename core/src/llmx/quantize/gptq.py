"""Rounding a weight so that its layer's output changes least, not the weight itself.

Second-order rounding (GPTQ, Frantar et al., https://arxiv.org/abs/2210.17323) with scales that are
fixed beforehand, so that columns may be taken in any order; then scales and integers are refined
in turns: least squares for the scales, coordinate descent for the integers (QuantEase, Behdin et
al., https://arxiv.org/abs/2309.01885).

Throughout, the loss of rounded weights Q [rows, width] is ``tr((Q - W) H (Q - W)^T)``, where H
[width, width] is the mean of ``x x^T`` over the layer's inputs: the mean squared change of output.
Matrices are worked on with one column after the other in memory, [width, rows].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from attrs import frozen
from torch import Tensor

from llmx.parallel import map_parallel
from llmx.quantize.codes import Codes, scale_dtype
from llmx.quantize.plan import Scheme
from llmx.quantize.sweep import swept

TINY = torch.finfo(torch.float32).tiny
MOST_VALUES = 1 << 22
"""Values of a weight that are worked on at a time."""
SHRINKING = tuple(1.1 - 0.6 * step / 40 for step in range(40))
"""Tried scales, as parts of the one that puts a group's largest value on the last code."""


@frozen(eq=False)
class Moments:
    """H [width, width] of a layer's inputs, and what follows from it for any weight.

    ``curvature`` is H with a part of its mean diagonal added, so that it can be inverted. In
    ``order`` columns are rounded, the most active first; ``corrections`` [width, width], in that
    order, is by how much a column's target moves for the errors of those before it.
    """

    mean: Tensor
    curvature: Tensor
    order: Tensor
    corrections: Tensor

    @classmethod
    def of(cls, mean: Tensor, damping: float) -> Moments:
        """``damping``: the part of the mean diagonal that is added."""
        diagonal = mean.diagonal()
        floor = damping * diagonal.mean().clamp_min(TINY)
        curvature = mean + torch.diag_embed(floor.expand_as(diagonal))
        order = curvature.diagonal().argsort(descending=True, stable=True)
        # With the last column first, H = L L^T: the error of a column is made up for by those
        # after it, which have yet to be rounded.
        last_first = order.flip(0)
        ordered = curvature[last_first][:, last_first].double()
        factor = torch.linalg.cholesky(ordered).to(mean.dtype)
        corrections = -(factor / factor.diagonal()).T.flip(0, 1)
        return cls(mean, curvature, order, corrections.contiguous())


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
        return self.solve(weight, Moments.of(moments, self.damping), scheme)

    def solve(self, weight: Tensor, moments: Moments, scheme: Scheme) -> Codes:
        """As a call, where H serves several weights."""
        # Rows are independent of each other.
        blocks = torch.chunk(weight, -(-weight.numel() // MOST_VALUES))
        parts = [self._rows(rows, moments, scheme) for rows in blocks]
        integers, scales = zip(*parts, strict=True)
        return Codes(torch.cat(integers), torch.cat(scales), scheme)

    def _rows(self, rows: Tensor, moments: Moments, scheme: Scheme) -> tuple[Tensor, Tensor]:
        weight = rows.float().T.contiguous()
        curvature = moments.curvature
        search = partial(_searched_scales, importance=curvature.diagonal(), scheme=scheme)
        fit = partial(_fitted_scales, curvature, scheme=scheme)
        scales = _by_rows(search, weight)
        values = _rounded_in_order(weight, moments, scales, scheme)
        pull = curvature @ weight
        for _ in range(self.refinements):
            scales = _by_rows(fit, values, pull, scales)
            values = _descended(curvature, values, pull, scales, scheme)
        return values.T.to(torch.int8).contiguous(), scales.T.to(scale_dtype(scheme)).contiguous()


def _by_rows(work: Callable[..., Tensor], *matrices: Tensor) -> Tensor:
    """``work`` of matrices [..., rows] whose rows are independent, some for each processor."""
    count = torch.get_num_threads()
    slices = zip(*(each.chunk(count, dim=1) for each in matrices), strict=True)
    return torch.cat(map_parallel(lambda some: work(*some), slices), dim=1)


def relative_output_error(codes: Codes, weight: Tensor, moments: Tensor) -> float:
    """Root mean square change of a layer's output over its root mean square, given H."""
    change = codes.dequantize() - weight
    total = ((weight @ moments) * weight).sum()
    return float((((change @ moments) * change).sum() / total).sqrt()) if total else 0.0


def _searched_scales(weight: Tensor, importance: Tensor, scheme: Scheme) -> Tensor:
    """The best of a few scales per group [groups, rows] by error weighted with H's diagonal."""
    grouped = weight.view(-1, scheme.group, weight.shape[1])
    weights = importance.view(-1, scheme.group, 1)
    weighted = grouped * weights
    largest = grouped.abs().amax(1) / ((1 << scheme.bits - 1) - 0.5)
    best = torch.full_like(largest, torch.inf)
    chosen = largest
    codes, products = torch.empty_like(grouped), torch.empty_like(grouped)
    for part in SHRINKING:
        scales = _representable(largest * part, scheme)
        torch.div(grouped, scales.unsqueeze(1), out=codes).round_().clamp_(*_limits(scheme))
        common = torch.mul(codes, weighted, out=products).sum(1)
        # What is left of the loss when the weights' own part is taken off.
        loss = scales * (scales * codes.square_().mul_(weights).sum(1) - 2 * common)
        better = loss < best
        best = torch.where(better, loss, best)
        chosen = torch.where(better, scales, chosen)
    return chosen


def _representable(scales: Tensor, scheme: Scheme) -> Tensor:
    return scales.clamp_min(TINY).to(scale_dtype(scheme)).float()


def _limits(scheme: Scheme) -> tuple[int, int]:
    """The lowest and the highest integer."""
    limit = 1 << scheme.bits - 1
    return -limit, limit - 1


def _rounded_in_order(weight: Tensor, moments: Moments, scales: Tensor, scheme: Scheme) -> Tensor:
    """Round column by column, the most active first; each corrects those that follow."""
    order = moments.order
    steps = scales.repeat_interleave(scheme.group, 0)[order]
    ordered = weight[order]
    values = torch.empty_like(weight)
    values[order] = swept(ordered, ordered, moments.corrections, steps, *_limits(scheme))
    return values


def _fitted_scales(
    curvature: Tensor, values: Tensor, pull: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """Scales of least loss for given integers, row by row; as they were where that is no better.

    ``pull`` [width, rows] is H times the weight.
    """
    groups, rows = scales.shape
    grouped = (groups, scheme.group, rows)
    normal = torch.empty(groups, groups, rows)
    responses = torch.empty_like(values)
    for group in range(groups):
        start = group * scheme.group
        columns = slice(start, start + scheme.group)
        response = torch.mm(curvature[start:, columns], values[columns], out=responses[start:])
        normal[group, group:] = response.mul_(values[start:]).view(-1, *grouped[1:]).sum(1)
        normal[group + 1 :, group] = normal[group, group + 1 :]
    normal = normal.permute(2, 0, 1).contiguous()
    wanted = (pull * values).view(grouped).sum(1).T
    before = scales.T
    current = _times(normal, before)
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    stable = normal + torch.diag_embed(ridge.clamp_min(TINY).expand_as(before))
    fitted = before + torch.linalg.solve(stable, wanted - current)
    # A scale far from where it was belongs to a group that hardly matters.
    sane = (fitted > 0.5 * before) & (fitted < 2 * before)
    fitted = _representable(torch.where(sane, fitted, before), scheme)
    loss_before = (before * (current - 2 * wanted)).sum(-1, keepdim=True)
    loss_after = (fitted * (_times(normal, fitted) - 2 * wanted)).sum(-1, keepdim=True)
    return torch.where(loss_after < loss_before, fitted, before).T.contiguous()


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)


def _descended(
    curvature: Tensor, values: Tensor, pull: Tensor, scales: Tensor, scheme: Scheme
) -> Tensor:
    """One round of giving each column the integers that are best for what all others are."""
    steps = scales.repeat_interleave(scheme.group, 0)
    rounded = values * steps
    coupling = curvature / -curvature.diagonal().unsqueeze(1)
    slope = torch.addmm(pull, curvature, rounded, beta=-1)
    targets = rounded - slope / curvature.diagonal().unsqueeze(1)
    return swept(targets, rounded, coupling, steps, *_limits(scheme))
