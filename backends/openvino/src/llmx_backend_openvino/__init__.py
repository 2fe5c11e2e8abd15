"""OpenVINO: Intel's CPUs, GPUs and NPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

RECIPES = {
    "default": Recipe(
        "4-bit weights in groups of 32, a KV cache.",
        {**ONE_LENGTH, "quantization.pt2e_quantize": "openvino_4wo"},
    ),
    "float": Recipe("Weights as they are in fp32.", ONE_LENGTH),
}


@frozen(kw_only=True)
class OpenvinoOptions:
    """Keys under ``backend.openvino``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower with OpenVINO."})
    device: str = field(
        default="CPU",
        metadata={"doc": "CPU, GPU or NPU; the machine that exports must have it too."},
    )
    nncf_compression_group_size: int = field(
        default=32, metadata={"doc": "Weights per scale of openvino_4wo; -1 is a whole row."}
    )
    openvino_awq: bool = field(
        default=False, metadata={"doc": "Scale weights by their activations first (AWQ)."}
    )
    openvino_scale_estimation: bool = field(
        default=False, metadata={"doc": "Choose scales by what layers give on the text."}
    )


@hookimpl
def options() -> type:
    return OpenvinoOptions


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
    from llmx_backend_openvino.packages import check_packages

    chosen, model, quantization = job.backend.options, job.model, job.quantization
    require_own_formats(job, "OpenVINO", "quantization.pt2e_quantize=openvino_4wo")
    require_one_length(model, "OpenVINO's delegate")
    require_plain_attention(model, "OpenVINO")
    require_weights_inside(job, "OpenVINO")
    require_fp32(model, "OpenVINO", "the device computes in what suits it")
    for name in ("openvino_awq", "openvino_scale_estimation"):
        if getattr(chosen, name) and quantization.pt2e_quantize != "openvino_4wo":
            raise ConfigError(
                f"backend.openvino.{name} is for quantization.pt2e_quantize=openvino_4wo",
                remedy="use that, or leave it out",
            )
    check_packages()


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    import torch

    from llmx.model.ops import ops_for

    # OpenVINO computes in bf16 where the CPU does, and the delegate takes no option against it.
    return attrs.evolve(ops_for(job), arithmetic=torch.bfloat16, integer_weights=False)


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_openvino.compression import compressions

    return compressions(job)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from llmx_backend_openvino.partition import partitioner

    return [partitioner(job.backend.options.device)]


@hookimpl
def runtime() -> str | None:
    from llmx.native import has_backend
    from llmx_backend_openvino.packages import missing_package

    if not has_backend("OpenvinoBackend"):
        return "this build of the ExecuTorch runtime has no OpenVINO"
    return missing_package("openvino")
