"""TOSA: programs whose delegates other compilers read, and Arm's reference model executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH
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
        {**ONE_LENGTH, "backend.tosa.version": "TOSA-1.0+FP"},
    ),
}


@frozen(kw_only=True)
class TosaOptions:
    """Keys under ``backend.tosa``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower to TOSA."})
    version: str = field(
        default="TOSA-1.0+INT",
        metadata={"doc": "Version and profile; TOSA-1.0+FP, its integers are not there yet."},
    )


@hookimpl
def options() -> type:
    return TosaOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    require_float_profile("backend.tosa.version", job.backend.options.version)
    check_common(job, "TOSA", "quantization.pt2e_quantize=none")
    check_packages("TOSA", TOSA)


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    return integer_ops(job)


@hookimpl
def edge_passes(job: ExportJob, program: ExportedProgram) -> Sequence[Any]:
    return without_position_checks(program)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from executorch.backends.arm.tosa.compile_spec import TosaCompileSpec
    from executorch.backends.arm.tosa.partitioner import TOSAPartitioner

    return [TOSAPartitioner(TosaCompileSpec(job.backend.options.version))]


@hookimpl
def runtime() -> str | None:
    return "ExecuTorch has no runtime for TOSA"
