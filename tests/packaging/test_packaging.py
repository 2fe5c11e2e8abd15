"""Every distribution builds, and one family's wheel in a clean environment is all that it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(
    path.parent
    for part in ("core", "plugins/*", "backends/*")
    for path in ROOT.glob(f"{part}/pyproject.toml")
)
TINY = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 128, "vocab_size": 128, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}  # fmt: skip


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [str(each) for each in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of every distribution."""
    folder = tmp_path_factory.mktemp("dist")
    for project in PROJECTS:
        result = run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=project)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with other people's packages only; the folder of its programs."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/*/site-packages"))
    for entry in [Path(each) for each in sys.path if each.endswith("site-packages")]:
        for each in entry.iterdir():
            ours = "llmx" in each.name or each.suffix == ".pth" or each.name == "__pycache__"
            if not ours and not (site / each.name).exists():
                (site / each.name).symlink_to(each)
    return folder / "bin"


def pip(clean: Path, *words: object) -> None:
    result = run(sys.executable, "-m", "pip", "--python", clean / "python", *words)
    assert result.returncode == 0, result.stdout + result.stderr


def llmx(clean: Path, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    cache = {"LLMX_CACHE_DIR": str(folder / "cache")}
    return run(clean / "llmx", *words, cwd=folder, env={**environment, **cache})


def names_in(archive: Path) -> Sequence[str]:
    if archive.suffix == ".whl":
        return zipfile.ZipFile(archive).namelist()
    with tarfile.open(archive) as file:
        return file.getnames()


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_a_distribution_builds_with_all_its_files(project: Path, built: Path) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    stem = f"{metadata['name'].replace('-', '_')}-{metadata['version']}"
    wheel, sdist = built / f"{stem}-py3-none-any.whl", built / f"{stem}.tar.gz"
    package = next((project / "src").iterdir())
    files = [
        each.relative_to(project / "src").as_posix()
        for each in package.rglob("*")
        if each.is_file() and "__pycache__" not in each.parts
    ]
    assert set(files) <= set(names_in(wheel))
    assert {f"{stem}/src/{each}" for each in files} <= set(names_in(sdist))


def test_one_package_is_enough_and_leaves_nothing_behind(
    built: Path, clean: Path, tmp_path: Path
) -> None:
    pip(clean, "install", "--no-index", "--find-links", built, "llmx-plugin-qwen")
    families = llmx(clean, "models", folder=tmp_path).stdout.split()
    assert {"qwen2_5", "qwen3"} <= set(families)
    assert "smollm2" not in families

    (tmp_path / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    words = ["export", "qwen3", "--params", "tiny.json", "--random-weights", "-o", "out", "--quiet"]
    result = llmx(clean, *words, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/model.pte").is_file()

    pip(clean, "uninstall", "--yes", "llmx-plugin-qwen")
    assert "no family is installed" in llmx(clean, "models", folder=tmp_path).stdout
    gone = llmx(clean, *words, folder=tmp_path)
    assert gone.returncode == 2
    assert "unknown family 'qwen3'" in gone.stderr
    assert "pip install llmx-plugin-qwen" in gone.stderr
