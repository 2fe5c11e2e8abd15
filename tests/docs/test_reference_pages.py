"""Every hook and every key has its place in the reference; for commands see test_docs_pages."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llmx.config.backends import backend_keys
from llmx.config.keys import core_keys
from llmx.hookspecs import BackendSpec, FamilySpec

ROOT = Path(__file__).parents[2]
PROJECTS = {
    each.parent.name: tomllib.loads(each.read_text(encoding="utf-8"))["project"]
    for each in sorted(ROOT.glob("backends/*/pyproject.toml"))
}
BACKENDS = [
    (part, backend)
    for part, project in PROJECTS.items()
    for backend in project["entry-points"]["llmx.backends"]
]


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("spec", [FamilySpec, BackendSpec])
def test_every_hook_is_documented(spec: type) -> None:
    page = read("hooks.md")
    hooks = [name for name in vars(spec) if hasattr(getattr(spec, name), "llmx_spec")]
    assert [name for name in hooks if f"\n### {name}\n" not in page] == []


def test_every_key_of_the_core_is_documented() -> None:
    page = read("configuration.md")
    assert [name for name in core_keys() if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(("part", "backend"), BACKENDS)
def test_every_key_of_a_backend_is_documented(part: str, backend: str) -> None:
    text = read(f"backends/{part}.md")
    assert [name for name in backend_keys(backend) if f"| `{name}` |" not in text] == []
