"""A real browser without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SLOW = 120_000  # milliseconds, on a busy machine


@contextmanager
def opened_page(*, offline: bool = False) -> Iterator[Page]:
    """A page to go somewhere with; the test is skipped where there is no Chromium."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium found")
    expect.set_options(timeout=SLOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=SLOW
        )
        page = browser.new_context(offline=offline).new_page()
        page.set_default_timeout(SLOW)
        yield page
        browser.close()
