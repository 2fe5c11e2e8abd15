"""The repository's pages, cut into their fenced blocks, and the plugins that they show."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(
    page
    for pattern in ("*.md", "docs/**/*.md", "core/*.md", "plugins/*/*.md", "backends/*/*.md")
    for page in sorted(ROOT.glob(pattern))
)
FENCE = re.compile(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TUTORIAL = DOCS / "writing-a-plugin.md"
ENTRY_POINTS = """[llmx.families]
tinyllama = llmx_plugin_tinyllama
[llmx.backends]
cpu = llmx_backend_cpu
"""


@frozen
class Block:
    """A fenced block: the page it is on, its language, the file name in its title, its text."""

    page: Path
    language: str
    title: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.strip().splitlines()[0]}"


def blocks(page: Path) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, language, title, text) for language, title, text in found]


def commands(page: Path) -> list[str]:
    """What the page's console blocks tell to type."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page)
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``page``: every page; ``command``: every line to type; ``code``: every Python block."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
    if "command" in metafunc.fixturenames:
        # The same line on two pages may mean two files.
        found = {f"{page.relative_to(ROOT)}: {line}": (page, line)
                 for page in PAGES for line in commands(page)}  # fmt: skip
        metafunc.parametrize("command", found.values(), ids=found.keys())
    if "code" in metafunc.fixturenames:
        python = [block for page in PAGES for block in blocks(page) if block.language == "python"]
        metafunc.parametrize("code", python, ids=[block.id for block in python])


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def write_titled() -> Callable[[Path, Path], None]:
    """Writes the blocks to which a page gives a file name as files of that name."""

    def write(page: Path, folder: Path) -> None:
        for block in blocks(page):
            if block.title:
                (folder / block.title).write_text(block.text, encoding="utf-8")

    return write


@pytest.fixture(scope="session")
def tutorial(
    tmp_path_factory: pytest.TempPathFactory, write_titled: Callable[[Path, Path], None]
) -> Path:
    """A folder with the tutorial's files, laid out so that Python takes them as installed."""
    folder = tmp_path_factory.mktemp("tutorial")
    write_titled(TUTORIAL, folder)
    info = folder / "llmx_plugin_tinyllama-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: llmx-plugin-tinyllama\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
