"""Vulkan: GPUs of Android phones, and others that have its compute shaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps
    from llmx.quantize.codes import Codes

GROUP_MULTIPLE = 32  # of input channels, in the shaders for 4-bit weights
QMODES = ("8da4w", "4w")
FLOAT = {
    "model.use_kv_cache": True,
    "model.use_sdpa_with_kv_cache": True,
    "export.max_seq_length": None,
    "export.max_context_length": None,
}
FOUR_BITS = {
    **FLOAT,
    "quantization.method": "auto",
    "quantization.embedding_quantize": "4,32",
}
RECIPES = {
    "default": Recipe(
        "4-bit weights, 8-bit activations, a KV cache.",
        {**FOUR_BITS, "quantization.qmode": "8da4w"},
    ),
    "weight-only": Recipe(
        "4-bit weights, float activations.", {**FOUR_BITS, "quantization.qmode": "4w"}
    ),
    "float": Recipe("Weights as they are in fp32.", FLOAT),
}


@frozen(kw_only=True)
class VulkanOptions:
    """Keys under ``backend.vulkan``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with Vulkan."})
    force_fp16: bool = field(
        default=False,
        metadata={"doc": "Keep and compute fp32 tensors as fp16 on the GPU: faster, less exact."},
    )


@hookimpl
def options() -> type:
    return VulkanOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    from llmx.config.backend_limits import require_weights_inside

    require_weights_inside(job, "Vulkan")
    qmode, dtype = job.quantization.qmode, job.model.dtype_override
    if qmode is not None and qmode not in QMODES:
        raise ConfigError(
            f"Vulkan has no shaders for quantization.qmode={qmode}",
            remedy=f"use {' or '.join(QMODES)}, or none",
        )
    if dtype == "bf16":
        raise ConfigError(
            "Vulkan does not compute in bf16",
            remedy="use model.dtype_override=fp32, and backend.vulkan.force_fp16=true for speed",
        )
    if job.model.quantize_kv_cache:
        raise ConfigError(
            "Vulkan has no attention over an int8 KV cache",
            remedy="use model.quantize_kv_cache=false",
        )


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from llmx.model.ops import ops_for
    from llmx.model.rope import RotaryTable
    from llmx.model.whole_context import over_whole_contexts

    ops = attrs.evolve(
        ops_for(job), group_multiple=GROUP_MULTIPLE, quantized_linear=_quantized_linear
    )
    if job.model.use_sdpa_with_kv_cache:
        # The shader takes no mask.
        attention = over_whole_contexts(
            ops.attention,
            "Vulkan's shader",
            "use model.use_sdpa_with_kv_cache=false; the cache is then written outside of the "
            "delegate",
        )
        ops = attrs.evolve(ops, attention=attention)
    # Angles of distant positions cannot be computed in fp16.
    return attrs.evolve(ops, rotary=RotaryTable) if job.backend.options.force_fp16 else ops


def _quantized_linear(linear: nn.Linear, codes: Codes) -> nn.Module:
    """torchao's layer with scales in fp32; those in bf16 would keep it out of the partition."""
    from llmx.quantize.linear import affine_linear

    return affine_linear(linear, attrs.evolve(codes, scales=codes.scales.float()))


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_vulkan.pt2e import QUANTIZERS

    return QUANTIZERS


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

    return [
        VulkanPartitioner(
            {
                "require_dynamic_shapes": job.model.enable_dynamic_shape,
                "force_fp16": job.backend.options.force_fp16,
            }
        )
    ]


@hookimpl
def runtime() -> str | None:
    from executorch.runtime import Runtime

    if Runtime.get().backend_registry.is_available("VulkanBackend"):
        return None
    return "this build of the ExecuTorch runtime has no Vulkan"
