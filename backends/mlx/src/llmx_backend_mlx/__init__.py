"""MLX: the GPUs of Macs with Apple silicon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl

if TYPE_CHECKING:
    from llmx.config import ExportJob

QMODES = ("4w",)
FLOAT = {
    "model.use_kv_cache": True,
    "model.use_sdpa_with_kv_cache": False,
    "model.dtype_override": "bf16",
    "export.max_seq_length": None,
    "export.max_context_length": None,
}
RECIPES = {
    "default": Recipe(
        "4-bit weights in groups of 32, bf16 activations, a KV cache.",
        {
            **FLOAT,
            "quantization.qmode": "4w",
            "quantization.group_size": 32,
            "quantization.method": "auto",
        },
    ),
    "float": Recipe("Weights in bf16, a KV cache.", FLOAT),
}


@frozen(kw_only=True)
class MlxOptions:
    """Keys under ``backend.mlx``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with MLX."})


@hookimpl
def options() -> type:
    return MlxOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    from llmx.config.backend_limits import require_plain_attention, require_weights_inside
    from llmx_backend_mlx.serializers import check_serializers

    qmode = job.quantization.qmode
    if qmode is not None and qmode not in QMODES:
        raise ConfigError(
            f"MLX has no kernels for quantization.qmode={qmode}",
            remedy=f"use {' or '.join(QMODES)}, or none",
        )
    require_plain_attention(job.model, "MLX")
    require_weights_inside(job, "MLX")
    check_serializers()


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from executorch.backends.mlx import MLXPartitioner

    return [MLXPartitioner()]


@hookimpl
def runtime() -> str | None:
    from llmx.native import has_backend

    if has_backend("MLXBackend"):
        return None
    return "this build of the ExecuTorch runtime has no MLX"
