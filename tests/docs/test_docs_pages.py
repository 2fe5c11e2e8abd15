"""The pages say what the code says, completely."""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llmx.cli import COMMANDS, group

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# Options that are about the command, not about the job.
NO_KEY = {"--config", "--recipe", "--json", "--quiet", "--no-cache", "--force"}


def test_generated_parts_are_current(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    outdated = [
        str(path.relative_to(root))
        for path, text in importlib.import_module("reference").pages().items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert not outdated, "run: make docs"


def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    headings = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def test_every_page_is_in_the_readme(root: Path) -> None:
    linked = set(LINK.findall((root / "README.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md")}
    assert pages <= linked


def test_every_command_has_its_section(root: Path) -> None:
    page = (root / "docs/cli.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"## llmx {name}\n" not in page] == []


def test_the_table_of_flags_is_complete(root: Path) -> None:
    page = (root / "docs/configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`-.+?) \|", page, re.MULTILINE)
    documented = {flag for row in rows for flag in re.findall(r"`(--?[\w-]+)", row)}
    export = group.get_command(click.Context(group), "export")
    assert export is not None
    flags = [option.opts for option in export.params if isinstance(option, click.Option)]
    assert {each for opts in flags for each in opts if not NO_KEY & set(opts)} == documented


def test_migrating_mentions_every_key_of_the_older_tool(root: Path) -> None:
    from executorch.extension.llm.export.config.llm_config import LlmConfig

    page = (root / "docs/migrating.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+\.[\w.*]+)`", page))
    whole = {name.removesuffix("*") for name in named if name.endswith(".*")}
    forgotten = [
        key for key in _keys(LlmConfig, "") if key not in named and not key.startswith(tuple(whole))
    ]
    assert forgotten == []


def _keys(options: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(options)
    for each in dataclasses.fields(options):
        if dataclasses.is_dataclass(hints[each.name]):
            yield from _keys(hints[each.name], f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}"


def test_the_readme_shows_the_plugin_of_the_tutorial(root: Path, tutorial: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    for name in ("pyproject.toml", "llmx_plugin_tinyllama.py"):
        assert (tutorial / name).read_text(encoding="utf-8") in readme
