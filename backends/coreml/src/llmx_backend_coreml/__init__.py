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

OLDEST_WITH_STATE = OLDEST_WITH_4_BITS = OLDEST_WITH_FUNCTIONS = 18
PIECE = 64  # tokens
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
    "prefill": Recipe(
        f"As default, with a method prefill for pieces of {PIECE} tokens; the KV cache outside.",
        {
            **FLOAT,
            "backend.coreml.quantize": "b4w",
            "backend.coreml.enable_state": False,
            "multimethod.methods": [
                {"method_name": "forward"},
                {"method_name": "prefill", "export_seq_len": PIECE},
            ],
            "multimethod.share_mutable_buffers": True,
        },
    ),
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
    if chosen.quantize is not None and chosen.ios < OLDEST_WITH_4_BITS:
        raise ConfigError(
            f"Core ML has weights in 4 bits from iOS {OLDEST_WITH_4_BITS} on, not {chosen.ios}",
            remedy=f"use backend.coreml.quantize=none, or backend.coreml.ios={OLDEST_WITH_4_BITS}",
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
    require_weights_inside(job, "Core ML", methods_of_one_model=True)
    _check_methods(job)
    # coremltools reads the state of an fp16 model as fp32, and then finds that it does not fit.
    require_fp32(model, "Core ML", "the program computes in fp16 all the same")


def _check_methods(job: ExportJob) -> None:
    """Several methods become functions of one Core ML model, with its weights in common."""
    chosen, methods = job.backend.options, job.multimethod.methods
    if len(methods) < 2:
        return
    if chosen.ios < OLDEST_WITH_FUNCTIONS:
        raise ConfigError(
            f"Core ML has models with several functions from iOS {OLDEST_WITH_FUNCTIONS} on, "
            f"not {chosen.ios}",
            remedy=f"use backend.coreml.ios={OLDEST_WITH_FUNCTIONS}, or one method",
        )
    # ExecuTorch's delegate makes a state when it loads a function:
    # https://github.com/pytorch/executorch/blob/v1.5.1/backends/apple/coreml/runtime/delegate/ETCoreMLModel.mm
    if chosen.enable_state:
        raise ConfigError(
            "backend.coreml.enable_state: ExecuTorch gives each method a state of its own, so that "
            "none would know what another has read",
            remedy="use backend.coreml.enable_state=false, as the recipe prefill has it",
        )


@hookimpl
def joins_methods(job: ExportJob) -> bool:
    return True


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from llmx.config.methods import prefill_of
    from llmx.model.ops import ops_for
    from llmx.model.rope import RotaryTable
    from llmx_backend_coreml.attention import PieceAttention

    # Angles of distant positions cannot be computed in fp16.
    ops = attrs.evolve(ops_for(job), rotary=RotaryTable, integer_weights=False)
    if prefill_of(job.multimethod.methods) is None:
        return ops
    return attrs.evolve(ops, attention=PieceAttention)


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
