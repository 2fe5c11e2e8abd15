"""``make site`` builds without a warning, and what it builds needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.browser import opened_page

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


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site on a server that knows nothing but files."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_its_search_finds_pages_on_a_plain_server(served: str) -> None:
    with opened_page() as page:
        page.goto(f"{served}/index.html")
        page.get_by_role("textbox", name="Search").press_sequentially("sliding window")
        expect(page.locator(".md-search-result__meta")).to_have_text(
            re.compile(r"\d+ matching documents")
        )


def test_opened_as_a_file_it_offers_no_search_that_would_find_nothing(site: Path) -> None:
    # Browsers let a page from a file read no other, so no index.
    with opened_page(offline=True) as page:
        page.goto((site / "index.html").as_uri())
        expect(page.get_by_role("heading", name="llmx")).to_be_visible()
        expect(page.get_by_role("textbox", name="Search")).to_be_hidden()
