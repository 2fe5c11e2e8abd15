"""The plugin of the tutorial exports a model, and the record is as documented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

# Mappings whose keys are names of other things.
OPAQUE = ("config", "versions", "model.params", "source.files", "files")


@pytest.fixture(scope="module")
def manifest(tutorial: Path) -> Mapping[str, Any]:
    """``llmx.json`` of the export that the tutorial tells to make."""
    page = (Path(__file__).parents[2] / "docs/writing-a-plugin.md").read_text(encoding="utf-8")
    line = re.search(r"^\$ llmx (export .+ -o (\S+))$", page, re.MULTILINE)
    assert line is not None
    result = subprocess.run(
        [sys.executable, "-c", "from llmx.cli import main; main()", *line[1].split()],
        cwd=tutorial,
        env={**os.environ, "PYTHONPATH": str(tutorial)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads((tutorial / line[2] / "llmx.json").read_text(encoding="utf-8"))


def test_its_program_computes_what_the_model_computes(manifest: Mapping[str, Any]) -> None:
    assert manifest["family"] == "tinyllama"
    assert manifest["versions"]["llmx-plugin-tinyllama"] == "1.0"
    assert manifest["checks"]
    assert all(check["passed"] for check in manifest["checks"])


def test_its_metadata_names_the_module_that_is_shown(tutorial: Path) -> None:
    project = tomllib.loads((tutorial / "pyproject.toml").read_text(encoding="utf-8"))
    (module,) = project["project"]["entry-points"]["llmx.families"].values()
    assert (tutorial / f"{module}.py").is_file()
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"] == [f"{module}.py"]


def test_the_record_follows_the_schema(manifest: Mapping[str, Any], root: Path) -> None:
    schema = json.loads((root / "docs/llmx.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, schema)


def test_every_key_of_the_record_is_documented(manifest: Mapping[str, Any], root: Path) -> None:
    page = (root / "docs/artifact.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page.partition("## llmx.json")[2], re.MULTILINE)
    documented = {key for row in rows for key in re.findall(r"`(.+?)`", row)}
    found = set(_keys(manifest, ""))
    assert found - documented == set(), "not documented"
    assert documented - found == set(), "documented, but not there"


def _keys(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping) and name not in OPAQUE:
        for key, each in value.items():
            yield from _keys(each, f"{name}.{key}" if name else key)
        return
    yield name
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        yield from _keys(value[0], f"{name}[]")
