"""ExecuTorch's portable kernels: they run anywhere, and are what other backends compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import Recipe, hookimpl, undelegated

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

FLOAT = {
    "model.use_kv_cache": True,
    "model.use_sdpa_with_kv_cache": True,
    "export.max_seq_length": None,
    "export.max_context_length": None,
}
RECIPES = {
    "default": Recipe("Weights as they are in fp32, a KV cache.", FLOAT),
    "plain": Recipe(
        "No operator beyond ExecuTorch's core set, for the smallest of runtimes.",
        {**FLOAT, "model.use_sdpa_with_kv_cache": False},
    ),
    "small": Recipe(
        "4-bit weights and embedding: small files, slow computing.",
        {**FLOAT, "quantization.qmode": "8da4w", "quantization.embedding_quantize": "4,32"},
    ),
}


@frozen(kw_only=True)
class PortableOptions:
    """Keys under ``backend.portable``."""

    enabled: bool = field(default=False, metadata={"doc": "Use portable kernels only."})


@hookimpl
def options() -> type:
    return PortableOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    undelegated.check(job)


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    return undelegated.model_ops(job)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    return ()


@hookimpl
def runtime() -> str | None:
    return None
