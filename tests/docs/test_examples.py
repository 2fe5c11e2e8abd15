"""The example plugins pass their tests, programs included, on the public API alone."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from tests.packages import its_tests

EXAMPLES = sorted((Path(__file__).parents[2] / "docs/examples").iterdir())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_passes_its_tests(example: Path, tmp_path: Path) -> None:
    folder = tmp_path / example.name
    shutil.copytree(example, folder)
    shown = its_tests(folder)
    assert "passed" in shown
    assert "failed" not in shown


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_uses_no_private_name(example: Path) -> None:
    for module in example.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(each.name for each in node.names)]
                assert not [each for each in names if each.startswith("_") and each != "__future__"]
