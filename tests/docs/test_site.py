"""``make site`` builds without a warning, and what it builds needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LOADED = re.compile(r"""<(?:script|img|source|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//""")
STYLES = re.compile(r"""<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload)["']?[^>]*//""")
IN_CSS = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_page_is_there(site: Path, root: Path) -> None:
    pages = {each.relative_to(root / "docs") for each in (root / "docs").rglob("*.md")}
    assert {each for each in pages if not (site / each.with_suffix(".html")).is_file()} == set()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not LOADED.search(text), page
        assert not STYLES.search(text), page
    for sheet in site.rglob("*.css"):
        assert not IN_CSS.search(sheet.read_text(encoding="utf-8")), sheet


def test_links_between_pages_are_links_to_files(site: Path) -> None:
    # The page for what is not there cannot know where it is shown.
    for page in set(site.rglob("*.html")) - {site / "404.html"}:
        for link in re.findall(r'<a [^>]*href="?([^"# >]+)', page.read_text(encoding="utf-8")):
            if "://" not in link and not link.startswith("mailto:"):
                assert (page.parent / link).exists(), (page, link)
