"""Vulkan: everything is delegated, and what the shaders cannot do is refused.

No runtime with Vulkan comes as a Python package: what is checked here is the lowering.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmx import Artifact, ConfigError, ExportJob
from llmx.plugins import load

ONE_LAYER = {"num_hidden_layers": 1}


def left_outside(artifact: Artifact) -> dict[str, int]:
    """Operators that stay with the portable kernels; taking a tuple apart is none."""
    rows = artifact.manifest["delegation"]["operators"]
    return {row["operator"]: row["other"] for row in rows if row["other"]} | {"getitem": 0}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"recipe": "default"}, id="8da4w, dynamic"),
        pytest.param({"recipe": "weight-only", "enable_dynamic_shape": False}, id="4w, static"),
        pytest.param({"recipe": "float", "backend.vulkan.force_fp16": True}, id="fp16"),
        pytest.param(
            {"recipe": "float", "pt2e_quantize": "vulkan_8w", "calibration_limit": 1}, id="pt2e 8w"
        ),
    ],
)
def test_the_whole_model_is_one_delegate(options: dict[str, Any], tiny_export: Any) -> None:
    artifact = tiny_export(backend="vulkan", config=ONE_LAYER, **options)
    assert artifact.manifest["delegation"]["subgraphs"] == 1
    assert left_outside(artifact) == {"getitem": 0}
    assert b"VulkanBackend" in artifact.program.read_bytes()


def test_what_cannot_run_here_is_not_called_checked(tiny_export: Any) -> None:
    artifact = tiny_export(backend="vulkan", config=ONE_LAYER, recipe="default")
    reason = load("smollm2", "vulkan").backend.runtime()
    if reason is None:
        pytest.skip("this machine can run Vulkan programs")
    assert artifact.manifest["checks"] == []
    assert any(reason in note for note in artifact.manifest["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qmode": "8da8w"}, "no shaders for .*8da8w"),
        ({"dtype_override": "bf16"}, "bf16"),
        ({"quantize_kv_cache": True}, "int8 KV cache"),
    ],
)
def test_jobs_that_the_shaders_cannot_do_are_refused(options: dict[str, Any], message: str) -> None:
    job = ExportJob.create(
        "smollm2", random_weights=True, backend="vulkan", recipe="float", **options
    )
    with pytest.raises(ConfigError, match=message) as raised:
        load("smollm2", "vulkan").backend.check(job=job)
    assert raised.value.remedy
