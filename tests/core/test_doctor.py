"""``llmx doctor``: what the machine has, against what llmx is tested with."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from llmx import doctor
from llmx.available import absent
from llmx.cli import invoke

ROOT = Path(__file__).parents[2]
DECLARED = [
    "torch~=2.13.0",
    "starlette>=0.46; extra == 'serve'",
    "llmx-backend-fast==0.1.0 ; extra == 'backends'",
    'llmx-backend-slow-one==0.1.0; extra == "backends"',
]


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pins[name] for name in doctor.TESTED} == doctor.TESTED


def test_absent_backends_come_with_the_command_that_brings_each() -> None:
    assert absent(DECLARED, ["llmx_backend_fast"]) == {
        "slow-one": "pip install llmx-backend-slow-one"
    }
    assert absent(DECLARED, ["llmx-backend-fast", "llmx-backend-slow-one"]) == {}


def test_every_backend_of_this_repository_is_in_the_extra() -> None:
    text = (ROOT / "core/pyproject.toml").read_text()
    for project in ROOT.glob("backends/*/pyproject.toml"):
        assert f'"llmx-backend-{project.parent.name}==' in text


def test_another_version_is_named_beside_the_tested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TESTED", {"attrs": "1.0.0", "no-such-package": "2.0"})
    _, other, missing = doctor.packages()
    assert other.state == "note"
    assert "llmx is tested with 1.0.0" in other.found
    assert (missing.state, missing.remedy) == ("bad", "pip install no-such-package==2.0")


def test_versions_and_room_are_known_without_torch() -> None:
    code = (
        "import sys; from llmx import doctor; list(doctor.packages()); list(doctor.room());"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class _Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_hub_that_refuses_is_still_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    answering, _ = doctor.hub()
    server.shutdown()
    server.server_close()
    assert answering.state == "good"


def test_a_hub_out_of_reach_is_no_error_but_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        silent, _ = doctor.hub()
    assert silent.state == "note"
    assert "does not answer" in silent.found
    assert silent.remedy


def test_offline_says_what_that_means(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert ["HF_HUB_OFFLINE" in each.found for each in doctor.hub()] == [True]


def test_backends_say_whether_they_lower_and_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("LLMX_LOAD_PLUGINS", "smollm2,portable,torchao")
    code = invoke(["doctor", "--json", "--debug"])
    seen = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}
    assert seen["backend portable"]["found"] == "lowers and runs"
    assert "memory" in seen
    if seen["backend torchao"]["state"] == "note":
        assert seen["backend torchao"]["remedy"]
    assert code == any(each["state"] == "bad" for each in seen.values())
