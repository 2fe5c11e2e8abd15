"""XNNPACK: fast kernels for Arm and x86 CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl
from llmx_backend_xnnpack.modes import GROUP_MULTIPLE, check_quantization

if TYPE_CHECKING:
    from torch import nn

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

LENGTHS = {"export.max_seq_length": None, "export.max_context_length": None}
BASIS = {
    "model.use_kv_cache": True,
    "model.use_sdpa_with_kv_cache": True,
    **LENGTHS,
    "backend.xnnpack.extended_ops": True,
}
RECIPES = {
    "default": Recipe(
        "Small and fast: 4-bit weights, one 8-bit table for tied embedding and head, 8-bit "
        "activations, a KV cache.",
        {
            **BASIS,
            "quantization.qmode": "8da4w",
            "quantization.method": "auto",
            "quantization.embedding_quantize": "auto",
        },
    ),
    # https://ai.meta.com/blog/meta-llama-quantized-lightweight-models/
    "tables-8bit": Recipe(
        "As Meta publishes small quantized models: 4 bits in groups of 32, embedding and head 8.",
        {
            **BASIS,
            "quantization.qmode": "8da4w",
            "quantization.group_size": 32,
            "quantization.embedding_quantize": "8,0",
            "quantization.head_quantize": "8,0",
        },
    ),
    "quality": Recipe(
        "Calibrated 4-bit weights, 8 bits where they help most, and one 8-bit table for tied "
        "embedding and head; takes minutes.",
        {
            **BASIS,
            "quantization.qmode": "8da4w",
            "quantization.method": "gptq",
            "quantization.embedding_quantize": "auto",
            "quantization.extra_bits": 0.3,
        },
    ),
    "float": Recipe("Weights as they are in fp32, to compare quantized programs with.", BASIS),
}


@frozen(kw_only=True)
class XnnpackOptions:
    """Keys under ``backend.xnnpack``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with XNNPACK."})
    extended_ops: bool = field(
        default=False,
        metadata={"doc": "Delegate every operator that XNNPACK has, not only matrix products."},
    )
    dynamic_quant_first: bool = field(
        default=False,
        metadata={
            "doc": "Partition in two passes: layers with 8-bit activations, then the rest, as the "
            "older tool does; more and smaller subgraphs."
        },
    )
    enable_bf16: bool = field(
        default=False,
        metadata={"doc": "Delegate bf16 operators; the device's CPU must have bf16 arithmetic."},
    )


@hookimpl
def options() -> type:
    return XnnpackOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    check_quantization(job)
    if job.quantization.qmode is not None and job.model.dtype_override != "fp32":
        raise ConfigError(
            f"XNNPACK has no {job.quantization.qmode} kernels for {job.model.dtype_override}",
            remedy="use model.dtype_override=fp32 (weights are quantized all the same), "
            "or quantization.qmode=none",
        )
    if job.model.dtype_override == "bf16" and not job.backend.options.enable_bf16:
        raise ConfigError(
            "XNNPACK leaves bf16 operators to the portable kernels unless it is told otherwise",
            remedy="use backend.xnnpack.enable_bf16=true if the device's CPU has bf16 arithmetic, "
            "or --backend none",
        )


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from llmx.model.fused import fuse_projections
    from llmx.model.norm import ProductRMSNorm
    from llmx.model.ops import ops_for
    from llmx_backend_xnnpack.linear import quantized_linear

    ops = ops_for(job)
    if _delegates_products(job):
        # XNNPACK has no mean over the last dimension: left outside, it would cut subgraphs in two.
        ops = attrs.evolve(ops, norm=ProductRMSNorm)
    # The blockwise 4-bit kernels take groups of 32 channels and multiples of it, those for 8 bits
    # whole rows, and all of them fp32 activations.
    return attrs.evolve(
        ops,
        kv_heads_apart=job.model.use_kv_cache and job.model.use_sdpa_with_kv_cache,
        group_multiple=GROUP_MULTIPLE,
        quantized_linear=quantized_linear,
        regroup=_regroup if job.model.enable_dynamic_shape else fuse_projections,
        int8_groups=False,
        integer_linears=job.model.dtype_override == "fp32",
    )


def _regroup(model: nn.Module) -> nn.Module:
    from llmx.model.fused import fuse_projections
    from llmx.model.last_token import last_token_only

    return fuse_projections(last_token_only(model))


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_xnnpack.pt2e import QUANTIZERS

    return QUANTIZERS


def _delegates_products(job: ExportJob) -> bool:
    """Whether products of two inputs are delegated, and none is quantized that is no layer."""
    return (
        job.backend.options.extended_ops
        and job.model.dtype_override == "fp32"
        and job.quantization.pt2e_quantize is None
    )


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from llmx_backend_xnnpack.partitioner import passes

    return passes(job.backend.options)


@hookimpl
def delegate_data(module: nn.Module) -> Mapping[str, tuple[str, bytes]]:
    from llmx_backend_xnnpack.payload import named_data

    return named_data(module)


@hookimpl
def runtime() -> str | None:
    from llmx.native import has_backend

    if has_backend("XnnpackBackend"):
        return None
    return "this build of the ExecuTorch runtime has no XNNPACK"
