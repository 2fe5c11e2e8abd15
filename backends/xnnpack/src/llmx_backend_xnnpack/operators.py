"""Which operators the partitioner may delegate: ExecuTorch's own list, three entries of it ours."""

from __future__ import annotations

from typing import Any

from executorch.backends.xnnpack.partition import config as known

from llmx_backend_xnnpack.gelu import GeluConfig
from llmx_backend_xnnpack.slices import SliceConfig, write_varying_slices
from llmx_backend_xnnpack.weight_only import LinearConfig

OURS = {
    known.LinearConfig: LinearConfig,
    known.GeluConfig: GeluConfig,
    known.SliceCopyConfig: SliceConfig,
}


def operators(*, extended: bool) -> list[Any]:
    """Which operators to delegate: all that XNNPACK has, or only matrix products."""
    if not extended:
        return [LinearConfig, known.AddmmConfig, known.MMConfig]
    write_varying_slices()
    return [OURS.get(each, each) for each in known.ALL_PARTITIONER_CONFIGS]
