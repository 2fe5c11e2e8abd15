"""OpenVINO: refusals here, and programs in an environment with the packages that it needs.

openvino and nncf want an older NumPy than everything else, so that such an environment is made
for this module: the one that runs the tests, with those packages over it.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.backends.elsewhere import environment, exported, with_families
from tests.backends.families import tiny_families

from llmx import ConfigError, ExportJob
from llmx.plugins import load

PACKAGES = ["openvino==2025.4.1", "nncf==3.1.0"]
ONE_PIECE = {"calibration_limit": 1}
EXPORTS = {
    "float": {},
    "4 bits": {"pt2e_quantize": "openvino_4wo", **ONE_PIECE},
    "4 bits, AWQ": {
        "pt2e_quantize": "openvino_4wo",
        "backend.openvino.openvino_awq": True,
        **ONE_PIECE,
    },
    "4 bits, scales estimated": {
        "pt2e_quantize": "openvino_4wo",
        "backend.openvino.openvino_scale_estimation": True,
        **ONE_PIECE,
    },
    "8 bits": {"pt2e_quantize": "openvino_8wo", **ONE_PIECE},
}
COMMON = {"backend": "openvino", "recipe": "float"}
ONE_LAYER = {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of tiny exports, made in an environment with OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino")
    exports = {name: {**COMMON, "config": ONE_LAYER, **each} for name, each in EXPORTS.items()}
    return exported(environment(folder, *PACKAGES), folder, with_families(exports, **COMMON))


@pytest.mark.parametrize("name", [*EXPORTS, *tiny_families()])
def test_a_program_is_delegated_whole_and_computes_what_the_model_does(
    name: str, manifests: dict[str, Any]
) -> None:
    manifest = manifests[name]
    # A sliding window's places are remainders, which OpenVINO leaves to ExecuTorch's kernels.
    windowed = name == "phi_3"
    assert manifest["delegation"]["subgraphs"] == (2 if windowed else 1)
    rows = {each["operator"]: each for each in manifest["delegation"]["operators"]}
    assert not [each for each in rows if "linear" in each and rows[each]["other"]]
    checks = {each["name"]: each for each in manifest["checks"]}
    assert checks["decode at 0 equals eager"]["passed"]
    assert all(each["passed"] for each in checks.values())


@pytest.mark.parametrize(
    ("name", "bits"),
    [("4 bits", 4), ("4 bits, AWQ", 4), ("4 bits, scales estimated", 4), ("8 bits", 8)],
)
def test_bits_are_in_the_account(name: str, bits: int, manifests: dict[str, Any]) -> None:
    modules = manifests[name]["weights"]["modules"]
    # nncf leaves the head at 8 bits, and the embedding.
    assert {each["name"]: each["bits"] for each in modules if each["kind"] != "other"} == {
        **{each["name"]: bits for each in modules if each["kind"] == "linear"},
        "head": 8,
        "embedding": 8,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qmode": "8da4w"}, "own weight formats"),
        ({"enable_dynamic_shape": True}, "one length"),
        ({"use_sdpa_with_kv_cache": True}, "own attention operators"),
        ({"dtype_override": "fp16"}, "a model in fp32"),
        ({"backend.openvino.openvino_awq": True}, "openvino_awq is for"),
    ],
)
def test_jobs_that_openvino_cannot_do_are_refused(options: dict[str, Any], message: str) -> None:
    job = ExportJob.create(
        "smollm2", random_weights=True, backend="openvino", recipe="float", **options
    )
    with pytest.raises(ConfigError, match=message) as raised:
        load("smollm2", "openvino").backend.check(job=job)
    assert raised.value.remedy
