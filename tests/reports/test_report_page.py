"""The pages about an export, in a real browser that is offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from llmx import Artifact
from tests.browser import opened_page
from tests.reports.conftest import LAYERS


@pytest.fixture
def wrong(offline_page: Page) -> list[str]:
    """What goes wrong on the page, and what it asks others for."""
    found: list[str] = []
    offline_page.on("pageerror", lambda error: found.append(str(error)))
    offline_page.on(
        "console", lambda said: found.append(said.text) if said.type == "error" else None
    )
    offline_page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("file:", "data:")) else found.append(request.url)
        ),
    )
    return found


@pytest.fixture(scope="module")
def offline_page() -> Iterator[Page]:
    with opened_page(offline=True) as page:
        yield page


def test_the_report_shows_everything(
    offline_page: Page, wrong: list[str], told: Artifact, tmp_path: Path
) -> None:
    manifest = told.manifest
    offline_page.goto((told.folder / "report.html").as_uri())
    expect(offline_page.get_by_role("heading", level=1)).to_have_text("smollm2")
    headings = offline_page.get_by_role("heading", level=2).all_text_contents()
    assert headings == [
        "Stages", "Delegation", "Bytes by layer and kind", "Quantization error by layer",
        "Memory of the program", "Acceptance checks", "Resolved configuration",
    ]  # fmt: skip

    def rows(part: str) -> int:
        return offline_page.locator(f"#{part} table").first.locator("tbody tr").count()

    assert rows("stages") == len(manifest["stages"])
    assert rows("delegation") == len(manifest["delegation"]["outside"])
    assert rows("checks") == len(manifest["checks"])
    assert rows("bytes") == LAYERS + len(["embedding", "norm", "head"])
    linears = [each for each in manifest["weights"]["modules"] if each["kind"] == "linear"]
    assert offline_page.locator("#errors circle").count() == len(linears) - len(["head"])
    expect(offline_page.locator("#delegation")).to_contain_text("llmx/model/kv_cache.py")
    expect(offline_page.locator("#config pre")).to_contain_text('"qmode": "8da4w"')
    lifetimes = offline_page.locator("#memory rect")
    assert lifetimes.count() > len(manifest["memory"]["peak_tensors"])
    lifetimes.first.hover(force=True)
    expect(offline_page.locator("#told")).to_contain_text("kB, steps 0 to")
    picture = offline_page.screenshot(full_page=True, path=tmp_path / "report.png")
    assert len(picture) > 50_000  # not an empty page
    assert offline_page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert wrong == []


def test_the_flame_graph_has_the_stages(
    offline_page: Page, wrong: list[str], graph: Artifact
) -> None:
    offline_page.goto((graph.folder.parent / "flame.html").as_uri())
    slowest = max(graph.manifest["stages"][1:], key=lambda each: float(each["seconds"]))
    stage = offline_page.locator("#graph button", has_text=f"{slowest['name']}  ").first
    seconds = float(stage.inner_text().split()[-2])
    assert seconds == pytest.approx(slowest["seconds"], rel=0.2)
    frames = offline_page.locator("#graph button")
    expect(frames.first).to_contain_text("export  ")
    stage.click()
    expect(frames.first).to_contain_text(slowest["name"])  # alone, with its callees
    expect(frames.nth(1)).to_contain_text("llmx/")
    assert wrong == []
