"""Choosing scales and rounding to them, one weight at a time and without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmx.config import QuantizationOptions
from llmx.parallel import for_each
from llmx.quantize.codes import Codes, Rounding, scale_dtype
from llmx.quantize.plan import Scheme

BLOCK = 1 << 18
"""Weights that are rounded at a time: the dozens of passes over them stay within the cache."""


def rounding_for_linears(options: QuantizationOptions) -> Rounding:
    """How linear layers are rounded that are not calibrated, as ``method`` or ``use_hqq`` says."""
    hqq = options.method == "hqq" or (options.method is None and options.use_hqq)
    return half_quadratic if hqq else largest_value


def largest_value(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales that put each group's largest value on the last code."""
    return _by_torchao(weight, scheme, "AFFINE")


def half_quadratic(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales refined by half-quadratic quantization (Badri & Shaji 2023)."""
    return _by_torchao(weight, scheme, "HQQ_SCALE_ONLY")


def _by_torchao(weight: Tensor, scheme: Scheme, algorithm: str) -> Codes:
    return _in_blocks(weight, scheme, lambda rows: _rows_by_torchao(rows, scheme, algorithm))


def _in_blocks(
    weight: Tensor, scheme: Scheme, rounded: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Codes:
    """weight [out, in]; ``rounded`` takes some rows, in fp32, to their integers and scales."""
    rows, (height, width) = max(1, BLOCK // weight.shape[1]), weight.shape
    values = torch.empty(height, width, dtype=torch.int8)
    scales: dict[int, Tensor] = {}

    def fill(start: int) -> None:
        block = slice(start, start + rows)
        values[block], scales[start] = rounded(weight[block].float())

    for_each(fill, range(0, height, rows))
    return Codes(values, torch.cat([scales[start] for start in sorted(scales)]), scheme)


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


def half_a_step_beyond(weight: Tensor, scheme: Scheme) -> Codes:
    """Scales that put the largest value half a step beyond the last code.

    It still rounds to that code, on both sides, and everything else is finer.
    """
    return _in_blocks(weight, scheme, lambda rows: _half_a_step_beyond(rows, scheme))


def _half_a_step_beyond(rows: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    limit = (1 << scheme.bits - 1) - 1
    grouped = rows.view(len(rows), -1, scheme.group)
    scales = (grouped.abs().amax(-1) / (limit + 0.5)).clamp_min(torch.finfo(torch.float32).tiny)
    codes = (grouped / scales.unsqueeze(-1)).round().clamp(-limit - 1, limit).to(torch.int8)
    return codes.view_as(rows), scales
