"""Arm: programs for an Ethos-U55 and in TOSA, made with Arm's packages; what cannot be is refused.

The packages state older versions of NumPy and FlatBuffers and work with those of the tests, so
that they are installed by themselves over these, in an environment of this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.backends.conftest import Drawn
from tests.backends.elsewhere import environment, exported, with_families
from tests.backends.families import tiny_families

from llmx import ConfigError, ExportJob
from llmx.lower.capture import capture, example_inputs
from llmx.plugins import load
from llmx_backend_arm.converter import require_start
from llmx_backend_arm.packages import TOSA, VELA, check_packages
from llmx_backend_arm.shared import without_position_checks

PACKAGES = [f"{name}=={version}" for name, version in {**TOSA, **VELA}.items()]
ETHOSU = {
    "backend": "ethosu",
    "recipe": "default",
    "config": {"num_hidden_layers": 1},
    "calibration_limit": 1,
    "calibration_seq_length": 8,
}
SIXTEEN_BITS = {
    "backend.ethosu.target": "ethos-u65-256", "pt2e_quantize": "ethosu_16a8w",
}  # fmt: skip
TOSA_LEAVES = {
    "aten_add_tensor", "aten_arange_start_step", "aten_embedding_default", "aten_ge_tensor",
    "aten_index_put_default", "aten_unsqueeze_copy_default", "getitem",
    "aten__to_copy_default",
    "aten_sub_tensor", "aten_lt_scalar", "aten_remainder_scalar", "aten_ge_scalar",
}  # fmt: skip
"""Looking up, positions, those within a sliding window too, and the cache."""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of tiny exports, made in an environment with Arm's packages."""
    folder = tmp_path_factory.mktemp("arm")
    ethosu = {"ethosu": ETHOSU, "ethosu, 16 bits": {**ETHOSU, **SIXTEEN_BITS}}
    exports = with_families(ethosu, backend="tosa", recipe="default")
    return exported(environment(folder, "--no-deps", *PACKAGES), folder, exports)


@pytest.mark.parametrize("family", tiny_families())
def test_tosa_has_all_arithmetic_of_a_model(family: str, manifests: dict[str, Any]) -> None:
    delegation = manifests[family]["delegation"]
    assert 0 < delegation["subgraphs"] <= 3
    assert {row["operator"] for row in delegation["operators"] if row["other"]} <= TOSA_LEAVES


@pytest.mark.parametrize(
    ("name", "left"), [("ethosu", set()), ("ethosu, 16 bits", {"aten_bmm_default"})]
)
def test_an_ethos_u_has_the_matrix_products_in_integers(
    name: str, left: set[str], manifests: dict[str, Any]
) -> None:
    manifest = manifests[name]
    rows = {row["operator"]: row for row in manifest["delegation"]["operators"]}
    products = [each for each in rows if any(word in each for word in ("linear", "mm", "matmul"))]
    assert products
    assert {each for each in products if rows[each]["other"]} == left
    weights = manifest["weights"]["modules"]
    assert {each["bits"] for each in weights if each["kind"] == "linear"} == {8}
    assert any("an Ethos-U" in note for note in manifest["notes"])


def test_checks_of_the_position_go_and_nothing_else(drawn_for: Any) -> None:
    drawn: Drawn = drawn_for(
        backend="tosa", recipe="default", config={"num_hidden_layers": 1}, max_context_length=32
    )
    model = drawn[1].model
    inputs, shapes = example_inputs(kv_cache=True, dynamic=False, max_seq_length=1)
    program = capture(model, inputs, shapes)
    assert "_assert_scalar" in str(program.graph)
    without_position_checks(program)
    assert "_assert_scalar" not in str(program.graph)
    assert "aten.item" not in str([node.target for node in program.graph.nodes])
    call = torch.tensor([[5]]), torch.tensor([0])
    with torch.no_grad():
        torch.testing.assert_close(program.module(check_guards=False)(*call), model(*call))


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("ethosu", {"backend.ethosu.target": "ethos-u85-256"}, "dependency cycles.*this NPU"),
        ("ethosu", {"backend.ethosu.target": "ethos-u55-127"}, "Vela has no .*u55-127"),
        ("ethosu", {"pt2e_quantize": None}, "computes in integers"),
        ("ethosu", {"qmode": "8da4w", "pt2e_quantize": None}, "own weight formats"),
        ("ethosu", {"enable_dynamic_shape": True}, "one length"),
        ("ethosu", {"use_sdpa_with_kv_cache": True}, "own attention operators"),
        ("tosa", {"backend.tosa.version": "TOSA-1.0+INT"}, "dependency cycles.*integer profile"),
        ("tosa", {"dtype_override": "fp16"}, "a model in fp32"),
        ("vgf", {"backend.vgf.compile_spec": "TOSA-1.0+INT"}, "dependency cycles"),
        ("vgf", {"backend.vgf.quantize_scope": "linear"}, "nothing is quantized for VGF"),
    ],
)
def test_jobs_that_cannot_be_lowered_are_refused(
    backend: str, options: dict[str, Any], message: str, params_file: Path
) -> None:
    job = ExportJob.create(
        "smollm2",
        params=str(params_file),
        random_weights=True,
        backend=backend,
        **{"recipe": "default", **options},
    )
    with pytest.raises(ConfigError, match=message) as raised:
        load(None, backend).backend.check(job=job)
    assert raised.value.remedy


def test_packages_that_are_missing_are_named_with_one_command() -> None:
    with pytest.raises(ConfigError, match=r"package no-such-package 1\.0 is not") as raised:
        check_packages("Ethos-U", {"no-such-package": "1.0"})
    assert raised.value.remedy == "pip install 'llmx-backend-arm[sdk]'"
    with pytest.raises(ConfigError, match=r"pytest .* is installed, ExecuTorch works with 1\.0"):
        check_packages("Ethos-U", {"pytest": "1.0"})


def test_the_packages_are_those_that_executorch_asks_for() -> None:
    from importlib.metadata import requires

    wanted = " ".join(each for each in requires("executorch") or () if "ethos-u" in each)
    assert [each for each in PACKAGES if each not in wanted] == []


def test_a_converter_that_does_not_start_is_refused_with_its_reason(tmp_path: Path) -> None:
    converter = tmp_path / "model-converter"
    converter.write_text("#!/bin/sh\necho 'GLIBC_2.38 not found' >&2\nexit 1\n")
    converter.chmod(0o755)
    with pytest.raises(ConfigError, match=r"does not start: GLIBC_2\.38 not found") as raised:
        require_start(converter, {})
    assert "glibc 2.38" in str(raised.value.remedy)


def test_configurations_of_the_older_tool_have_the_same_keys() -> None:
    import dataclasses

    import attrs
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    for name in ("ethosu", "tosa", "vgf"):
        older = getattr(LlmConfig().backend, name)
        ours = load(None, name).backend.options()()
        values = json.loads(json.dumps(dataclasses.asdict(older)))
        assert attrs.asdict(ours) == values
