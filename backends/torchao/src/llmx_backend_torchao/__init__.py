"""torchao's low-bit kernels: weights of 1 to 8 bits on Arm CPUs, without a delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

PREFIX = "torchao:"
GROUP_MULTIPLE = 16
RECIPES = {
    "default": Recipe(
        "4-bit weights, 8-bit activations, a KV cache.",
        {
            "model.use_kv_cache": True,
            "model.use_sdpa_with_kv_cache": True,
            "export.max_seq_length": None,
            "export.max_context_length": None,
            "quantization.qmode": "torchao:8da4w",
            "quantization.embedding_quantize": "torchao:4,32",
        },
    )
}


@frozen(kw_only=True)
class TorchaoOptions:
    """Keys under ``backend.torchao``."""

    enabled: bool = field(default=False, metadata={"doc": "Compute with torchao's kernels."})
    use_torchao_kernels_linear: bool = field(
        default=False, metadata={"doc": "Take qmode 8da4w and 8da8w for their torchao: forms."}
    )
    use_torchao_kernels_tied_embedding: bool = field(
        default=False, metadata={"doc": "The same as model.use_shared_embedding, which it needs."}
    )


@hookimpl
def options() -> type:
    return TorchaoOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    _check_modes(job)
    if job.model.dtype_override != "fp32":
        raise ConfigError(
            f"torchao's kernels compute in fp32, not in {job.model.dtype_override}",
            remedy="use model.dtype_override=fp32",
        )
    from llmx_backend_torchao.kernels import missing

    absent = missing(job)
    if absent:
        raise ConfigError(
            f"the torchao that is installed here has no low-bit kernels ({absent[0]})",
            remedy="build it from source on an Arm machine (USE_CPP=1), "
            "or use --backend xnnpack and quantization.qmode=8da4w",
        )


def _check_modes(job: ExportJob) -> None:
    qmode, embedding = job.quantization.qmode, job.quantization.embedding_quantize
    chosen = job.backend.options
    if qmode is not None and qmode.startswith(f"{PREFIX}fpa"):
        raise ConfigError(
            f"quantization.qmode={qmode}: torchao has float activations on Apple's GPU only, "
            "which llmx makes no programs for",
            remedy=f"use {qmode.replace('fpa', '8da')}",
        )
    plain = qmode in ("8da4w", "8da8w") and chosen.use_torchao_kernels_linear
    if qmode is not None and not (qmode.startswith(PREFIX) or plain):
        raise ConfigError(
            f"torchao's kernels do not compute quantization.qmode={qmode}",
            remedy="use torchao:8da4w, or another number of bits from 1 to 8",
        )
    shared = job.model.use_shared_embedding
    if chosen.use_torchao_kernels_tied_embedding and not shared:
        raise ConfigError(
            "backend.torchao.use_torchao_kernels_tied_embedding needs model.use_shared_embedding",
            remedy="add model.use_shared_embedding=true",
        )
    if shared and embedding is not None and not embedding.startswith(PREFIX):
        raise ConfigError(
            f"model.use_shared_embedding with quantization.embedding_quantize={embedding}: "
            "torchao's kernels cannot use such a table as the head",
            remedy=f"use {PREFIX}{embedding}",
        )


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from llmx.model.ops import ops_for
    from llmx.quantize.embedding import QuantizedEmbedding
    from llmx_backend_torchao.kernels import LowBitEmbedding, LowBitLinear, LowBitTable

    ops = ops_for(job)
    embedding = job.quantization.embedding_quantize or ""
    return attrs.evolve(
        ops,
        group_multiple=GROUP_MULTIPLE,
        # Only the universal layout can be looked up in; without a table to share, torchao chooses.
        quantized_linear=LowBitLinear.in_layout(
            "universal" if job.model.use_shared_embedding else None
        ),
        quantized_embedding=LowBitEmbedding if embedding.startswith(PREFIX) else QuantizedEmbedding,
        shared_table=LowBitTable,
    )


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    return ()


@hookimpl
def runtime() -> str | None:
    return "ExecuTorch's Python package has no runtime kernels for torchao's low-bit operators"
