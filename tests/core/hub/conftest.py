"""A hub on this machine, and clients in processes of their own, set up by the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.core.hub.hub_server import FIRST, REPO, SECOND, Hub, sharded_model

from llmx.checkpoint import open_checkpoint

CLIENT = """
import json, sys
from llmx.checkpoint.hub import resolve
from llmx.errors import CheckpointError
from llmx.progress import Silent

class Recorder(Silent):
    events = []
    def advanced(self, done, total, what):
        self.events.append((done, total, what))

try:
    folder, commit = resolve(sys.argv[1], sys.argv[2] or None, Recorder())
    answer = {"folder": str(folder), "revision": commit, "progress": Recorder.events}
except CheckpointError as error:
    answer = {"error": error.message, "remedy": error.remedy}
print(json.dumps(answer))
"""
OPENING_CLIENT = """
import json, sys
from llmx.checkpoint import open_checkpoint
checkpoint = open_checkpoint(sys.argv[1])
answer = {"source": checkpoint.source, "revision": checkpoint.revision}
print(json.dumps({**answer, "hidden_size": checkpoint.config["hidden_size"]}))
"""
CONFIG_CLIENT = """
import json, sys
from llmx.checkpoint.peek import read_config
from llmx.errors import CheckpointError
try:
    print(json.dumps(dict(read_config(sys.argv[1], revision=None, params=None))))
except CheckpointError as error:
    print(json.dumps({"error": error.message}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    server.commits = {FIRST: sharded_model(10.0), SECOND: sharded_model(20.0)}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a client that downloads into a cache of this test."""

    def run(
        source: str = REPO, revision: str = "", *, code: str = CLIENT, **environment: str
    ) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        return subprocess.Popen(
            [sys.executable, "-c", code, source, revision],
            env={
                **inherited,
                "HF_ENDPOINT": hub.address,
                "HF_HOME": str(tmp_path / "hf"),
                "NO_PROXY": "127.0.0.1",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def fetch(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Any]:
    """What a client answers, with the files and values that it got."""

    def run(*arguments: str, **options: str) -> Any:
        with start(*arguments, **options) as client:
            output, errors = client.communicate(timeout=300)
        assert client.returncode == 0, errors
        answer = json.loads(output)
        answer["stderr"] = errors
        if "folder" in answer:
            answer["files"] = sorted(path.name for path in Path(answer["folder"]).iterdir())
            checkpoint = open_checkpoint(answer["folder"])
            answer["values"] = {n: checkpoint.read(n)[0].item() for n in checkpoint.tensors}
        return answer

    return run


@pytest.fixture
def opened(fetch: Callable[..., Any]) -> Any:
    """What ``open_checkpoint`` says about the repository."""
    return fetch(code=OPENING_CLIENT)


@pytest.fixture
def fetch_config(fetch: Callable[..., Any]) -> Callable[[], Any]:
    """Fetch what tells the family, and nothing else."""
    return lambda: fetch(code=CONFIG_CLIENT)
