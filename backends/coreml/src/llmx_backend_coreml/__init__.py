"""Core ML: the Neural Engine, GPU and CPU of Apple's devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import field, frozen, validators

from llmx import ConfigError, Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

OLDEST_WITH_STATE = 18
Units = Literal["cpu_only", "cpu_and_gpu", "cpu_and_ne", "all"]
FLOAT = {
    **ONE_LENGTH,
    "backend.coreml.ios": 18,
    "backend.coreml.enable_state": True,
    "backend.coreml.preserve_sdpa": True,
    "backend.coreml.compute_units": "cpu_and_ne",
}
RECIPES = {
    "default": Recipe(
        "iOS 18 and the Neural Engine: 4-bit weights in blocks of 32, fp16, the KV cache as state.",
        {**FLOAT, "backend.coreml.quantize": "b4w"},
    ),
    "float": Recipe("iOS 18 and the Neural Engine: fp16 weights, the KV cache as state.", FLOAT),
}


@frozen(kw_only=True)
class CoremlOptions:
    """Keys under ``backend.coreml``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with Core ML."})
    enable_state: bool = field(
        default=False,
        metadata={"doc": "Keep the KV cache as Core ML state, inside the delegate; from iOS 18."},
    )
    preserve_sdpa: bool = field(
        default=False,
        metadata={"doc": "Hand attention over as one operation; from iOS 18."},
    )
    quantize: Literal["b4w", "c4w"] | None = field(
        default=None,
        metadata={"doc": "4-bit weights by coremltools: b4w in blocks of 32, c4w per channel."},
    )
    ios: int = field(
        default=15,
        validator=validators.in_((15, 16, 17, 18)),
        metadata={"doc": "Oldest iOS that the program is for: 15, 16, 17 or 18."},
    )
    compute_units: Units = field(
        default="cpu_only", metadata={"doc": "What Core ML may compute with."}
    )


@hookimpl
def options() -> type:
    return CoremlOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    from llmx.config.backend_limits import (
        require_fp32,
        require_one_length,
        require_own_formats,
        require_plain_attention,
        require_weights_inside,
    )

    chosen, model = job.backend.options, job.model
    for name in ("enable_state", "preserve_sdpa"):
        if getattr(chosen, name) and chosen.ios < OLDEST_WITH_STATE:
            raise ConfigError(
                f"backend.coreml.{name} needs iOS {OLDEST_WITH_STATE}, not {chosen.ios}",
                remedy=f"use backend.coreml.ios={OLDEST_WITH_STATE}, "
                f"or backend.coreml.{name}=false",
            )
    if chosen.quantize == "b4w" and chosen.ios < OLDEST_WITH_STATE:
        raise ConfigError(
            f"Core ML has weights in blocks from iOS {OLDEST_WITH_STATE} on, not {chosen.ios}",
            remedy="use backend.coreml.quantize=c4w, or backend.coreml.ios=18",
        )
    if chosen.quantize is not None and job.quantization.pt2e_quantize is not None:
        raise ConfigError(
            f"backend.coreml.quantize={chosen.quantize} contradicts "
            f"quantization.pt2e_quantize={job.quantization.pt2e_quantize}",
            remedy="use backend.coreml.quantize=none, or leave the quantizer out",
        )
    require_own_formats(job, "Core ML", "backend.coreml.quantize=b4w")
    require_one_length(model, "Core ML")
    require_plain_attention(model, "Core ML")
    require_weights_inside(job, "Core ML")
    # coremltools reads the state of an fp16 model as fp32, and then finds that it does not fit.
    require_fp32(model, "Core ML", "the program computes in fp16 all the same")


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from llmx.model.ops import ops_for
    from llmx.model.rope import RotaryTable

    # Angles of distant positions cannot be computed in fp16.
    return attrs.evolve(ops_for(job), rotary=RotaryTable)


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_coreml.pt2e import QUANTIZERS

    return QUANTIZERS


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from llmx_backend_coreml.partition import partitioner

    return [partitioner(job.backend.options)]


@hookimpl
def runtime() -> str | None:
    from executorch.runtime import Runtime

    if Runtime.get().backend_registry.is_available("CoreMLBackend"):
        return None
    return "Core ML runs on Apple's systems only"
