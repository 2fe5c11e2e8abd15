"""Large matrix products in XNNPACK, everything else in ExecuTorch's portable kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl

if TYPE_CHECKING:
    from llmx import ExportJob

LENGTHS = {"export.max_seq_length": None, "export.max_context_length": None}
RECIPES = {
    "default": Recipe("Weights in fp32, a KV cache.", {"model.use_kv_cache": True, **LENGTHS}),
    "all": Recipe(
        "Every product, however small.",
        {"model.use_kv_cache": True, **LENGTHS, "backend.products.least_weights": 1},
    ),
}


@frozen(kw_only=True)
class ProductsOptions:
    """Keys under ``backend.products``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower large matrix products."})
    least_weights: int = field(
        default=65536, metadata={"doc": "Weights that a product must have to be handed over."}
    )


@hookimpl
def options() -> type:
    return ProductsOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    mode = job.quantization.qmode
    if mode is not None:
        raise ConfigError(
            f"products hands over weights in float, not {mode}",
            remedy="use quantization.qmode=none",
        )


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from llmx_example_products_partitioner import ProductPartitioner

    return [ProductPartitioner(job.backend.options.least_weights)]


@hookimpl
def runtime() -> str | None:
    from llmx.native import has_backend

    return None if has_backend("XnnpackBackend") else "the runtime here has no XNNPACK"
