"""The tested versions lie in the ranges that the packages promise, and nothing is left unpinned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = [
    ROOT / "core/pyproject.toml",
    *sorted(ROOT.glob("plugins/*/pyproject.toml")),
    *sorted(ROOT.glob("backends/*/pyproject.toml")),
]


@pytest.fixture
def pinned() -> Mapping[str, str]:
    """Versions by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in pins)}


def _requirements(project: Path) -> list[Requirement]:
    declared = tomllib.loads(project.read_text())["project"]["dependencies"]
    return [Requirement(line) for line in declared]


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_pins_lie_in_the_declared_ranges(project: Path, pinned: Mapping[str, str]) -> None:
    for requirement in _requirements(project):
        name = canonicalize_name(requirement.name)
        if not name.startswith("llmx-"):
            assert requirement.specifier.contains(pinned[name]), requirement


def test_development_tools_are_pinned(pinned: Mapping[str, str]) -> None:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    tools = {canonicalize_name(line) for line in lines if re.match(r"\w", line)}
    assert tools <= pinned.keys()


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_distributions_share_one_version(project: Path) -> None:
    import llmx

    assert tomllib.loads(project.read_text())["project"]["version"] == llmx.__version__
    for requirement in _requirements(project):
        if requirement.name.startswith("llmx-"):
            assert str(requirement.specifier) == f"=={llmx.__version__}"
