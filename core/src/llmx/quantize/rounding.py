"""Choosing scales and rounding to them, one weight at a time and without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmx.config import QuantizationOptions
from llmx.parallel import map_parallel, row_blocks
from llmx.quantize.codes import Codes, Rounding, scale_dtype
from llmx.quantize.plan import Scheme

TINY = torch.finfo(torch.float32).tiny
SHRINKING = (1.0, 0.9, 0.8, 0.7)
"""Tried scales, as parts of the one that puts a group's largest value half a step beyond the last
code."""


def rounding_for_linears(options: QuantizationOptions) -> Rounding:
    """How linear layers are rounded that are not calibrated, as ``method`` or ``use_hqq`` says."""
    if options.method == "hqq" or (options.method is None and options.use_hqq):
        return half_quadratic
    if options.method == "rounding" or (options.method is None and options.use_hqq is False):
        return largest_value
    return least_squares


def largest_value(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales that put each group's largest value on the last code."""
    return _by_torchao(weight, scheme, "AFFINE")


def half_quadratic(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales refined by half-quadratic quantization (Badri & Shaji 2023)."""
    return _by_torchao(weight, scheme, "HQQ_SCALE_ONLY")


def least_squares(weight: Tensor, scheme: Scheme) -> Codes:
    """The best of a few scales by squared error, refined to fit the integers that it gives."""
    return _in_blocks(weight, scheme, lambda rows: _least_squares(rows, scheme))


def half_a_step_beyond(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales that put the largest value half a step beyond the last code.

    It still rounds to that code, on both sides, and everything else is finer.
    """
    return _in_blocks(weight, scheme, lambda rows: _half_a_step_beyond(rows, scheme))


def _in_blocks(
    weight: Tensor, scheme: Scheme, rounded: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Codes:
    """weight [out, in]; ``rounded`` takes some rows, in fp32, to their integers and scales."""
    values = torch.empty(weight.shape, dtype=torch.int8)

    def fill(block: slice) -> Tensor:
        values[block], scales = rounded(weight[block].float())
        return scales

    return Codes(values, torch.cat(map_parallel(fill, row_blocks(weight.shape))), scheme)


def _by_torchao(weight: Tensor, scheme: Scheme, algorithm: str) -> Codes:
    return _in_blocks(weight, scheme, lambda rows: _rows_by_torchao(rows, scheme, algorithm))


def _rows_by_torchao(weight: Tensor, scheme: Scheme, algorithm: str) -> tuple[Tensor, Tensor]:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerGroup, quantize_
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{scheme.bits}"),
        weight_granularity=PerGroup(scheme.group),
        weight_scale_dtype=scale_dtype(scheme),
        intx_choose_qparams_algorithm=IntxChooseQParamsAlgorithm[algorithm],
    )
    quantize_(linear, config)
    quantized: Any = linear.weight  # torchao's tensor type
    return quantized.qdata, quantized.scale


def _half_a_step_beyond(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    groups = rows.view(-1, scheme.group)
    scales = _widest(groups, scheme)
    codes = _nearest(groups, scales, scheme)
    return codes.to(torch.int8).view_as(rows), scales.view(len(rows), -1)


def _least_squares(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    groups = rows.view(-1, scheme.group)
    integers = torch.empty_like(groups)
    widest = _widest(groups, scheme)
    explained, scales = _fitted(groups, widest, scheme, integers)
    for part in SHRINKING[1:]:
        more, candidate = _fitted(groups, widest * part, scheme, integers)
        scales = torch.where(more > explained, candidate, scales)
        explained = torch.maximum(more, explained)
    _, scales = _fitted(groups, scales, scheme, integers)
    scales = scales.to(scale_dtype(scheme)).clamp_min(TINY)
    codes = _nearest(groups, scales.float(), scheme, integers)
    return codes.to(torch.int8).view_as(rows), scales.view(len(rows), -1)


def _fitted(
    groups: Tensor, scales: Tensor, scheme: Scheme, integers: Tensor
) -> tuple[Tensor, Tensor]:
    """What scales [groups] do once each is replaced by the best one for the integers it gives.

    Returns how much of each group's sum of squares is no error then, and those best scales.
    """
    _nearest(groups, scales, scheme, integers)
    common = torch.linalg.vecdot(groups, integers)
    fitted = (common / torch.linalg.vecdot(integers, integers).clamp_min(1)).clamp_min(TINY)
    return common * fitted, fitted


def _widest(groups: Tensor, scheme: Scheme) -> Tensor:
    """Of each group [groups, group], the scale with the largest value half a step too large."""
    limit = (1 << scheme.bits - 1) - 1
    return (groups.abs().amax(-1) / (limit + 0.5)).clamp_min(TINY)


def _nearest(
    groups: Tensor, scales: Tensor, scheme: Scheme, integers: Tensor | None = None
) -> Tensor:
    """The nearest integers of groups [groups, group], as floats, in ``integers`` if given."""
    limit = (1 << scheme.bits - 1) - 1
    divided = torch.div(groups, scales.unsqueeze(-1), out=integers)
    return divided.round_().clamp_(-limit - 1, limit)
