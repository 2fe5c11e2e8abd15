"""VGF: Arm's neural graphics, by way of Arm's model converter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH
from llmx_backend_arm.converter import check_converter
from llmx_backend_arm.packages import TOSA, check_packages
from llmx_backend_arm.shared import (
    check_common,
    integer_ops,
    require_float_profile,
    without_position_checks,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

RECIPES = {
    "default": Recipe(
        "TOSA's float profile, weights in fp32, a KV cache.",
        {**ONE_LENGTH, "backend.vgf.compile_spec": "TOSA-1.0+FP"},
    ),
}


@frozen(kw_only=True)
class VgfOptions:
    """Keys under ``backend.vgf``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower to VGF."})
    compile_spec: str = field(
        default="TOSA-1.0+INT",
        metadata={"doc": "Version and profile; TOSA-1.0+FP, its integers are not there yet."},
    )
    compiler_flags: list[str] = field(
        factory=list, metadata={"doc": "Flags of Arm's model converter."}
    )
    quantize_scope: Literal["full", "linear"] = field(
        default="full", metadata={"doc": "What pt2e quantizes; full, as nothing is quantized yet."}
    )


@hookimpl
def options() -> type:
    return VgfOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    chosen = job.backend.options
    require_float_profile("backend.vgf.compile_spec", chosen.compile_spec)
    if chosen.quantize_scope != "full":
        raise ConfigError(
            f"backend.vgf.quantize_scope={chosen.quantize_scope}: nothing is quantized for VGF yet",
            remedy="leave it out",
        )
    check_common(job, "VGF", "quantization.pt2e_quantize=none")
    check_packages("VGF", TOSA)
    check_converter()


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    return integer_ops(job)


@hookimpl
def edge_passes(job: ExportJob, program: ExportedProgram) -> Sequence[Any]:
    return without_position_checks(program)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from executorch.backends.arm.vgf import VgfCompileSpec, VgfPartitioner

    chosen = job.backend.options
    return [VgfPartitioner(VgfCompileSpec(chosen.compile_spec, list(chosen.compiler_flags)))]


@hookimpl
def runtime() -> str | None:
    from llmx.native import has_backend

    if has_backend("VgfBackend"):
        return None
    return "this build of the ExecuTorch runtime has no VGF"
