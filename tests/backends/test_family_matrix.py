"""Every family with every backend: what a backend claims is delegated, and computes right.

A program is compared with its eager model by the export itself, where a runtime is here. MLX,
OpenVINO and TOSA lower the same models in ``test_mlx.py``, ``test_openvino.py`` and
``test_arm.py``, in environments of their own, and QNN up to its SDK in ``test_qnn.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.backends.families import tiny_families

from llmx import Artifact, ConfigError
from llmx.plugins import BACKENDS, installed, load

FAMILIES = tiny_families()
LENGTHS = {"max_context_length": 32, "max_seq_length": 8}
ELSEWHERE = {"ethosu", "mlx", "openvino", "qnn", "tosa"}
NOT_HERE = {"torchao", "vgf"}
"""torchao's kernels come with builds for Arm, and Arm's converter needs a newer C library."""
POSITIONS = {
    "_assert_scalar", "_local_scalar_dense", "add", "aten__to_copy_default", "aten_add_tensor",
    "aten_arange_start_step", "ge", "getitem", "le", "lt", "sub", "sym_size",
}  # fmt: skip
CACHE = {"auto_functionalized_v2", "llama_custom_sdpa_default", "llama_update_cache_default"}
MOVED = {
    "aten_cat_default", "aten_embedding_default", "aten_select_copy_int", "aten_slice_copy_tensor",
    "aten_split_with_sizes_copy_default", "aten_unsqueeze_copy_default", "aten_view_copy_default",
}  # fmt: skip
RINGS = {
    "aten_bitwise_and_tensor", "aten_full_default", "aten_ge_scalar", "aten_ge_tensor",
    "aten_lt_scalar", "aten_remainder_scalar", "aten_repeat_default", "aten_sub_tensor",
    "aten_where_self", "scalar_tensor",
}  # fmt: skip
"""Slots and masks of sliding windows, in whole numbers."""
XNNPACK_LEAVES = POSITIONS | CACHE | MOVED


def export_of(family: str, backend: str, tiny_export: Any) -> Artifact:
    lengths = LENGTHS if backend in ("portable", "xnnpack", "vulkan") else {}
    recipe = "default" if backend == "portable" else "float"
    found: Artifact = tiny_export(
        family=family, config=FAMILIES[family], backend=backend, recipe=recipe, **lengths
    )
    return found


def outside(artifact: Artifact) -> set[str]:
    """Operators that are left to ExecuTorch's own kernels."""
    rows = artifact.manifest["delegation"]["operators"]
    return {row["operator"] for row in rows if row["other"]}


def assert_checked(artifact: Artifact) -> None:
    checks = {each["name"]: each["passed"] for each in artifact.manifest["checks"]}
    assert "prefill equals eager" in checks
    assert all(checks.values())


@pytest.mark.parametrize("family", FAMILIES)
class TestPortable:
    def test_nothing_is_delegated_and_the_program_is_right(
        self, family: str, tiny_export: Any
    ) -> None:
        artifact = export_of(family, "portable", tiny_export)
        assert artifact.manifest["delegation"]["subgraphs"] == 0
        assert_checked(artifact)


@pytest.mark.parametrize("family", FAMILIES)
class TestXnnpack:
    def test_all_arithmetic_is_delegated_and_the_program_is_right(
        self, family: str, tiny_export: Any
    ) -> None:
        artifact = export_of(family, "xnnpack", tiny_export)
        general = not load(family, None).family.sizes()
        allowed = XNNPACK_LEAVES
        if general:
            # The norms of transformers' models are theirs, with a mean that XNNPACK does not have.
            allowed = allowed | {"aten_mean_dim"}
        if FAMILIES[family].get("sliding_window"):
            allowed = allowed | RINGS
        assert outside(artifact) <= allowed
        assert_checked(artifact)


@pytest.mark.parametrize("family", FAMILIES)
class TestVulkan:
    def test_the_whole_model_is_one_delegate(self, family: str, tiny_export: Any) -> None:
        if FAMILIES[family].get("sliding_window"):
            with pytest.raises(ConfigError, match="no attention with sliding windows"):
                export_of(family, "vulkan", tiny_export)
            return
        artifact = export_of(family, "vulkan", tiny_export)
        assert artifact.manifest["delegation"]["subgraphs"] == 1
        assert outside(artifact) <= {"getitem"}


@pytest.mark.parametrize("family", FAMILIES)
class TestCoreml:
    def test_the_whole_model_is_one_delegate(self, family: str, tiny_export: Any) -> None:
        artifact = export_of(family, "coreml", tiny_export)
        assert artifact.manifest["delegation"]["subgraphs"] == 1
        assert outside(artifact) <= {"getitem"}


def test_no_backend_is_left_out() -> None:
    here = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    assert {each.name for each in installed(BACKENDS)} == here | ELSEWHERE | NOT_HERE
