"""The server minds what is sent to it, and tells nobody more than they need to know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

CHAT = "/v1/chat/completions"
ASKED = {"model": "paris", "messages": [{"role": "user", "content": "hello"}]}
JSON = {"content-type": "application/json"}


@pytest.fixture
def http(paris: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=paris, timeout=120) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ("", 400, "not valid JSON"),
        ("{", 400, "not valid JSON"),
        ("[1]", 400, "JSON object"),
        ('{"model": NaN}', 400, "not valid JSON"),
        ("[" * 100_000, 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        ('{"messages": [], "' + "x" * 999 + '": 1}', 400, "messages"),
        (" " * (1 << 20) + "{}", 413, "larger than"),
        (json.dumps({**ASKED, "messages": [{"role": "user", "content": "\ud800"}]}), 400, "UTF-8"),
        (json.dumps({**ASKED, "\ud800": 1}), 400, "not supported"),
        (json.dumps({**ASKED, "model": "\ud800/../x"}), 404, "no such model"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_body_that_cannot_be_used(
    http: httpx.Client, body: str | bytes, status: int, problem: str
) -> None:
    answer = http.post(CHAT, content=body, headers=JSON)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert problem in error["message"]
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 200


def test_a_browser_cannot_send_a_request_for_another_site(http: httpx.Client) -> None:
    """Without asking first it sends other types than JSON only, and it asks in vain."""
    body = json.dumps(ASKED)
    assert http.post(CHAT, content=body, headers={"content-type": "text/plain"}).status_code == 415
    elsewhere = {"origin": "https://example.org", "access-control-request-method": "POST"}
    for answer in (
        http.options(CHAT, headers=elsewhere),
        http.get("/v1/models", headers=elsewhere),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "example.org:80", ""])
def test_another_name_is_not_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 421
    for own in ("localhost:1", "127.0.0.1", "[::1]:8080"):
        assert http.get("/v1/models", headers={"host": own}).status_code == 200


def test_unknown_addresses_are_errors_in_the_same_form(http: httpx.Client) -> None:
    for answer, status in ((http.get("/v1/nothing"), 404), (http.get(CHAT), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_no_answer_tells_where_the_files_are(http: httpx.Client, folder: Path) -> None:
    answers = [http.get(path) for path in ("/", "/health", "/v1/models", "/v1/x", "/../etc/passwd")]
    answers += [http.post(CHAT, json=each) for each in (ASKED, {**ASKED, "model": str(folder)}, {})]
    answers.append(http.post("/v1/completions", json={"model": "paris", "prompt": ""}))
    for answer in answers:
        assert str(folder) not in answer.text
        assert "Traceback" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_the_page_and_the_health_need_no_key(endless: str) -> None:
    assert httpx.get(f"{endless}/health", timeout=60).json() == {"status": "ok"}
    page = httpx.get(endless, timeout=60)
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{endless}/v1/models", timeout=60).status_code == 401
