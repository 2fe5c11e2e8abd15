"""Ethos-U: Arm's NPUs for microcontrollers and embedded systems, compiled by Vela."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from llmx import ConfigError, Recipe, hookimpl
from llmx.config.recipe import ONE_LENGTH
from llmx.names import did_you_mean
from llmx_backend_arm.packages import TOSA, VELA, check_packages
from llmx_backend_arm.shared import (
    CYCLES,
    check_common,
    integer_ops,
    without_position_checks,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps

# https://pypi.org/project/ethos-u-vela/: the values of --accelerator-config
TARGETS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
)
BITS = {"ethosu_8a8w": 8, "ethosu_16a8w": 16}
RECIPES = {
    "default": Recipe(
        "Ethos-U55: weights and activations in 8 bits, a KV cache.",
        {
            **ONE_LENGTH,
            "quantization.pt2e_quantize": "ethosu_8a8w",
            "backend.ethosu.target": "ethos-u55-128",
        },
    ),
}


@frozen(kw_only=True)
class EthosuOptions:
    """Keys under ``backend.ethosu``."""

    enabled: bool = field(default=False, metadata={"doc": "Lower for an Ethos-U."})
    target: str = field(
        default="ethos-u85-128",
        metadata={"doc": "The NPU and its multipliers, as in ethos-u55-128; no ethos-u85 yet."},
    )
    memory_mode: str = field(
        default="default", metadata={"doc": "Vela's memory mode; default goes by the target."}
    )
    system_config: str = field(
        default="default", metadata={"doc": "Vela's system; default goes by the target."}
    )
    extra_flags: list[str] = field(
        factory=list, metadata={"doc": "Further flags of Vela's command line."}
    )


@hookimpl
def options() -> type:
    return EthosuOptions


@hookimpl
def recipes() -> Mapping[str, Recipe]:
    return RECIPES


@hookimpl
def check(job: ExportJob) -> None:
    target = job.backend.options.target.lower()
    if target.startswith("ethos-u85"):
        raise ConfigError(
            f"backend.ethosu.target={target}: ExecuTorch's partitioner {CYCLES} for this NPU",
            remedy="use backend.ethosu.target=ethos-u55-128 or ethos-u65-256",
        )
    if target not in TARGETS:
        raise ConfigError(
            f"Vela has no backend.ethosu.target={target}{did_you_mean(target, TARGETS)}",
            remedy=f"use one of {', '.join(TARGETS)}",
        )
    check_common(job, "Ethos-U", "quantization.pt2e_quantize=ethosu_8a8w")
    if job.quantization.pt2e_quantize is None:
        raise ConfigError(
            "an Ethos-U computes in integers",
            remedy=f"use quantization.pt2e_quantize={' or '.join(BITS)}",
        )
    check_packages("Ethos-U", TOSA, VELA)


@hookimpl
def model_ops(job: ExportJob) -> ModelOps:
    return integer_ops(job)


@hookimpl
def quantizers(job: ExportJob) -> Mapping[str, Callable[[], Any]]:
    from llmx_backend_arm.pt2e import quantizer

    def make(bits: int) -> Any:
        return quantizer("EthosUQuantizer", _compile_spec(job.backend.options), bits)

    return {name: partial(make, bits) for name, bits in BITS.items()}


@hookimpl
def edge_passes(job: ExportJob, program: ExportedProgram) -> Sequence[Any]:
    return without_position_checks(program)


@hookimpl
def partitioners(job: ExportJob) -> Sequence[Any]:
    from executorch.backends.arm.ethosu import EthosUPartitioner

    return [EthosUPartitioner(_compile_spec(job.backend.options))]


def _compile_spec(chosen: EthosuOptions) -> Any:
    from executorch.backends.arm.ethosu import EthosUCompileSpec

    return EthosUCompileSpec(
        chosen.target.lower(),
        system_config=None if chosen.system_config == "default" else chosen.system_config,
        memory_mode=None if chosen.memory_mode == "default" else chosen.memory_mode,
        extra_flags=list(chosen.extra_flags),
    )


@hookimpl
def runtime() -> str | None:
    return "programs for an Ethos-U run on devices that have one"
