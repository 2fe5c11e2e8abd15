"""The built-in page, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.browser import opened_page


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with opened_page() as page:
        yield page


def test_a_chat(browser_page: Page, paris: str) -> None:
    wrong: list[str] = []
    asked: list[str] = []
    browser_page.on("pageerror", lambda error: wrong.append(str(error)))
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(paris)
    expect(browser_page.get_by_role("heading", name="paris")).to_be_visible()
    message = browser_page.get_by_label("Message", exact=True)
    message.fill("hello")
    message.press("Enter")
    expect(browser_page.get_by_role("log")).to_contain_text("paris 🙂")
    expect(browser_page.locator(".figures")).to_contain_text("tokens")
    message.fill("<b>x</b>" * 20)
    browser_page.get_by_role("button", name="Send").click()
    expect(browser_page.locator(".wrong")).to_contain_text("context is 96 tokens")
    expect(browser_page.locator(".user").last).to_have_text("<b>x</b>" * 20)
    browser_page.get_by_role("button", name="New chat").click()
    expect(browser_page.get_by_role("log")).not_to_contain_text("paris")
    assert wrong == []
    assert all(url.startswith((paris, "data:")) for url in asked)


def test_a_key_is_asked_for_and_an_answer_stopped(browser_page: Page, endless: str) -> None:
    browser_page.goto(endless)
    key = browser_page.get_by_label("API key")
    expect(key).to_be_visible()
    key.fill("secret")
    key.press("Tab")
    expect(browser_page.get_by_role("heading", name="a/b")).to_be_visible()
    expect(key).to_be_hidden()
    for _ in range(2):  # a stopped answer leaves the model free for the next one
        browser_page.get_by_label("Message", exact=True).fill("hello")
        browser_page.get_by_role("button", name="Send").click()
        expect(browser_page.locator(".assistant").last).not_to_be_empty()
        browser_page.get_by_role("button", name="Stop").click()
        expect(browser_page.locator(".figures").last).to_have_text("stopped")
