"""MLX: everything is delegated, in an ExecuTorch whose missing part was generated.

The package for Linux has the generator, not what it makes: here a copy of its folder gets it.
No runtime with MLX runs here: what is checked is the lowering.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.backends.elsewhere import exported, with_families
from tests.backends.families import tiny_families

from llmx import ConfigError, ExportJob
from llmx.plugins import load
from llmx_backend_mlx.serializers import GENERATED, check_serializers, executorch_folder, flatc

EXPORTS: dict[str, dict[str, Any]] = {
    "4 bits": {"backend": "mlx", "recipe": "default"},
    "float": {"backend": "mlx", "recipe": "float", "dtype_override": "fp32"},
    "one length": {"backend": "mlx", "recipe": "float", "enable_dynamic_shape": False},
}


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Records of tiny exports by the whole package."""
    folder = tmp_path_factory.mktemp("mlx")
    real, whole = executorch_folder(), folder / "packages" / "executorch"
    (whole / "backends").mkdir(parents=True)
    for each in [*real.iterdir(), *(real / "backends").iterdir()]:
        target = whole / each.relative_to(real)
        if each.name not in ("backends", "mlx"):
            target.symlink_to(each)
    subprocess.run(["cp", "-r", real / "backends" / "mlx", whole / "backends"], check=True)
    serialization = whole / "backends" / "mlx" / "serialization"
    made = subprocess.run(
        [sys.executable, serialization / "generate.py", "--flatc", flatc()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [name for name in GENERATED if not (serialization / name).exists()] == [], made.stderr
    environment = {**os.environ, "PYTHONPATH": str(folder / "packages")}
    exports = with_families(EXPORTS, backend="mlx", recipe="float")
    return exported(Path(sys.executable), folder, exports, environment)


@pytest.mark.parametrize("name", [*EXPORTS, *tiny_families()])
def test_the_whole_model_is_one_delegate(name: str, manifests: dict[str, Any]) -> None:
    delegation = manifests[name]["delegation"]
    assert delegation["subgraphs"] == 1
    rows = {row["operator"]: row["other"] for row in delegation["operators"] if row["other"]}
    assert rows.keys() <= {"getitem"}


def test_four_bits_are_in_the_account(manifests: dict[str, Any]) -> None:
    weights = manifests["4 bits"]["weights"]["modules"]
    assert {each["bits"] for each in weights if each["kind"] == "linear"} == {4}


def test_what_is_missing_is_said_with_the_command_that_makes_it() -> None:
    folder = executorch_folder() / "backends" / "mlx" / "serialization"
    if (folder / GENERATED[0]).exists():
        check_serializers()
        pytest.skip("this package of ExecuTorch is whole")
    with pytest.raises(ConfigError, match=r"without mlx_graph_schema\.py") as raised:
        check_serializers()
    assert f"generate.py --flatc {flatc()}" in str(raised.value.remedy)
    assert flatc().is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qmode": "8da4w"}, "no kernels for .*8da4w"),
        ({"use_sdpa_with_kv_cache": True}, "own attention operators"),
    ],
)
def test_jobs_that_mlx_cannot_do_are_refused(options: dict[str, Any], message: str) -> None:
    job = ExportJob.create("smollm2", random_weights=True, backend="mlx", **options)
    with pytest.raises(ConfigError, match=message) as raised:
        load("smollm2", "mlx").backend.check(job=job)
    assert raised.value.remedy
