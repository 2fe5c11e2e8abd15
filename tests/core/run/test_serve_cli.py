"""``llmx serve`` refuses what would not be safe or cannot work, before it loads the model."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from llmx.cli import invoke

from .conftest import Model


@pytest.fixture
def made(decoder: Model, artifact: Callable[..., Path]) -> str:
    return str(artifact(decoder.program))


def test_others_are_not_served_without_a_key(
    made: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LLMX_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "example.org"):
        assert invoke(["serve", made, "--host", host]) == 2
        assert "--api-key" in capsys.readouterr().err
    assert invoke(["serve", made, "--api-key", "schlüssel"]) == 2
    assert "ASCII" in capsys.readouterr().err


def test_a_port_in_use_is_named(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert invoke(["serve", made, "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"port {port}" in err
    assert "--port" in err


def test_what_is_no_artifact_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["serve", str(tmp_path)]) == 2
    assert "llmx.json" in capsys.readouterr().err
