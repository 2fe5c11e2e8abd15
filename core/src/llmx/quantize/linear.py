"""Weights of linear layers in groups of few bits, by torchao."""

from __future__ import annotations

import torch
from torch import nn

from llmx.quantize.plan import Scheme


def quantize_linear(linear: nn.Linear, scheme: Scheme, *, hqq: bool) -> None:
    """Replace the float weight [out, in] by signed integers, activations by int8 per token.

    Scales are stored in bf16, as the CPU kernels hold them, so that the eager model computes
    what the exported one does. ``hqq`` refines the scales by half-quadratic quantization
    (Badri & Shaji 2023) instead of taking each group's largest value.
    """
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm

    per_row = scheme.group == linear.in_features
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=getattr(torch, f"int{scheme.bits}"),
        weight_granularity=PerAxis(0) if per_row else PerGroup(scheme.group),
        weight_scale_dtype=torch.float32 if per_row else torch.bfloat16,
        intx_choose_qparams_algorithm=(
            IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY if hqq else IntxChooseQParamsAlgorithm.AFFINE
        ),
    )
    quantize_(linear, config)
