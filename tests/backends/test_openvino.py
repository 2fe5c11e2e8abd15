"""OpenVINO: refusals here, and programs in an environment with the packages that it needs.

openvino and nncf want an older NumPy than everything else, so that such an environment is made
for this module: the one that runs the tests, with those packages over it.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
import venv
from typing import Any

import pytest

from llmx import ConfigError, ExportJob
from llmx.plugins import load

PACKAGES = ["openvino==2025.4.1", "nncf==3.1.0"]
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
EXPORTS = {
    "float": {},
    "4 bits": {"pt2e_quantize": "openvino_4wo"},
}
SCRIPT = """
import json, sys
from llmx import ExportJob, export
params, folder, exports = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, options in exports.items():
    job = ExportJob.create(
        "smollm2", backend="openvino", recipe="float", params=params, random_weights=True,
        output_dir=f"{folder}/{name}", calibration_limit=1 if options else None,
        **options,
    )
    export(job)
"""


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of tiny exports, made in an environment with OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino")
    python = folder / "environment" / "bin" / "python"
    venv.create(folder / "environment", with_pip=True)
    (site,) = (folder / "environment").glob("lib/*/site-packages")
    parent = sysconfig.get_paths()["purelib"]
    (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    install = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True
    )
    if install.returncode != 0:
        pytest.skip(f"{' '.join(PACKAGES)} cannot be installed: {install.stderr.strip()[-200:]}")
    params = folder / "config.json"
    params.write_text(json.dumps(TINY))
    done = subprocess.run(
        [python, "-c", SCRIPT, params, folder, json.dumps(EXPORTS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads((folder / name / "llmx.json").read_text()) for name in EXPORTS}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_program_is_one_delegate_that_computes_what_the_model_does(
    name: str, manifests: dict[str, Any]
) -> None:
    manifest = manifests[name]
    assert manifest["delegation"]["subgraphs"] == 1
    rows = {each["operator"]: each for each in manifest["delegation"]["operators"]}
    assert not [each for each in rows if "linear" in each and rows[each]["other"]]
    checks = {each["name"]: each for each in manifest["checks"]}
    assert checks["decode at 0 equals eager"]["passed"]
    assert all(each["passed"] for each in checks.values())


def test_four_bits_are_in_the_account(manifests: dict[str, Any]) -> None:
    modules = manifests["4 bits"]["weights"]["modules"]
    # nncf leaves the head at 8 bits, and the embedding.
    assert {each["name"]: each["bits"] for each in modules if each["kind"] != "other"} == {
        **{each["name"]: 4 for each in modules if each["kind"] == "linear"},
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
