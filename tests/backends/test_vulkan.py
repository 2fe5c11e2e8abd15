"""Vulkan: everything is delegated, and what the shaders cannot do is refused.

No runtime with Vulkan comes as a Python package: what is checked here is the lowering.
"""

from __future__ import annotations

from types import MappingProxyType

from llmx import Artifact
from llmx.testing import BackendConformance
from llmx.testing.backends import Lowered


class TestVulkan(BackendConformance):
    backend = "vulkan"
    shape = MappingProxyType({"num_hidden_layers": 1})
    exports = MappingProxyType(
        {
            "8da4w, dynamic": {"recipe": "default"},
            "4w, static": {"recipe": "weight-only", "enable_dynamic_shape": False},
            "fp32, static": {"recipe": "float", "enable_dynamic_shape": False},
            "fp16": {"recipe": "float", "backend.vulkan.force_fp16": True},
            "pt2e 8w": {"recipe": "float", "pt2e_quantize": "vulkan_8w", "calibration_limit": 1},
        }
    )
    refusals = MappingProxyType(
        {
            "8da8w": ({"recipe": "float", "qmode": "8da8w"}, "no shaders for .*8da8w"),
            "bf16": ({"recipe": "float", "dtype_override": "bf16"}, "bf16"),
            "int8 cache": ({"recipe": "float", "quantize_kv_cache": True}, "int8 KV cache"),
        }
    )

    def test_the_whole_model_is_one_delegate(self, llmx_lowered: Lowered) -> None:
        artifact = llmx_lowered.artifact
        assert artifact.manifest["delegation"]["subgraphs"] == 1
        assert left_outside(artifact) == {"getitem": 0}
        assert b"VulkanBackend" in artifact.program.read_bytes()


def left_outside(artifact: Artifact) -> dict[str, int]:
    """Operators that stay with the portable kernels; taking a tuple apart is none."""
    rows = artifact.manifest["delegation"]["operators"]
    return {row["operator"]: row["other"] for row in rows if row["other"]} | {"getitem": 0}
