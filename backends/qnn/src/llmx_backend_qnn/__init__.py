"""QNN: the Hexagon NPUs of Qualcomm's Snapdragon chips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen, validators

from llmx import ConfigError, Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH
from llmx.names import did_you_mean

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

RECIPES = {
    "default": Recipe(
        "4-bit weights, 16-bit activations, a KV cache.",
        {**ONE_LENGTH, "quantization.pt2e_quantize": "qnn_16a4w"},
    ),
    "float": Recipe("Weights and activations in fp16.", ONE_LENGTH),
}


@frozen(kw_only=True)
class QnnOptions:
    """Keys under ``backend.qnn``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with QNN."})
    soc_model: str = field(
        default="SM8650", metadata={"doc": "The chip, SM8650 being the Snapdragon 8 Gen 3."}
    )
    num_sharding: int = field(
        default=0,
        validator=validators.ge(0),
        metadata={"doc": "Cut the layers into this many programs for the NPU; 0 is one."},
    )
    use_sha: bool = field(
        default=False, metadata={"doc": "Attention head by head instead of all at once."}
    )
    use_qnn_sha: bool = field(default=False, metadata={"doc": "An older name of use_sha."})
    optimized_rotation_path: str | None = field(
        default=None, metadata={"doc": "SpinQuant rotations; not supported yet."}
    )


@hookimpl
def options() -> type:
    return QnnOptions


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
    from llmx_backend_qnn.chips import chips
    from llmx_backend_qnn.sdk import check_sdk

    chosen, model = job.backend.options, job.model
    known = chips()
    if chosen.soc_model not in known:
        raise ConfigError(
            f"QNN has no chip backend.qnn.soc_model={chosen.soc_model}"
            + did_you_mean(chosen.soc_model, known),
            remedy=f"use one of {', '.join(known)}",
        )
    if chosen.optimized_rotation_path is not None:
        raise ConfigError(
            "backend.qnn.optimized_rotation_path is not supported yet",
            remedy="leave it out and use a plain checkpoint",
        )
    require_own_formats(job, "QNN", "quantization.pt2e_quantize=qnn_16a4w")
    if not model.use_kv_cache:
        raise ConfigError("QNN needs a KV cache", remedy="use model.use_kv_cache=true")
    require_one_length(model, "QNN")
    require_plain_attention(model, "QNN")
    require_weights_inside(job, "QNN")
    require_fp32(model, "QNN", "unquantized programs compute in fp16 all the same")
    check_sdk()


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    from torch import nn

    from llmx.model.grouped_attention import GroupedAttention
    from llmx.model.ops import ops_for
    from llmx.model.rope import RotaryTable
    from llmx.model.whole_context import over_whole_contexts

    # ExecuTorch's passes for QNN put constants of windows behind what reads them.
    attention = over_whole_contexts(
        GroupedAttention,
        "QNN",
        "use model.local_global_attention=[0] with contexts that the window holds, or another "
        "backend",
    )
    # Angles of distant positions cannot be computed in the types of the NPU.
    return attrs.evolve(
        ops_for(job),
        norm=nn.RMSNorm,
        rotary=RotaryTable,
        attention=attention,
        integer_weights=False,
    )


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_qnn.pt2e import QUANTIZERS

    return QUANTIZERS


@hookimpl
def edge_passes(job: ExportJob, program: ExportedProgram) -> Sequence[Any]:
    from llmx_backend_qnn.lowering import passes

    return passes(program, job.backend.options.num_sharding)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from llmx_backend_qnn.lowering import partitioner

    return [partitioner(job.backend.options, quantized=job.quantization.pt2e_quantize is not None)]


@hookimpl
def runtime() -> str | None:
    return "programs of QNN run on Qualcomm's devices"
