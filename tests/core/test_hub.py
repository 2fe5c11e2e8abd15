"""The hub client against a real server on this machine that speaks the hub's protocol.

The client runs in a process of its own, configured as a user does it: by environment variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save

from llmx.checkpoint import open_checkpoint

FIRST, SECOND = "1" * 40, "2" * 40
REPO = "org/model"

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


class Hub(ThreadingHTTPServer):
    """A hub with one repository: files by commit, and what shall go wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches = {"main": FIRST}
        self.listed_only: list[str] = []
        self.gated_with_token: str | None = None
        self.cut_after: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.redirected: set[str] = set()
        self.moves_after_listing: str | None = None
        self.log: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def downloads(self) -> list[str]:
        files = [path for method, path, _ in self.log if method == "GET" and "/resolve/" in path]
        return [path.split("/")[-1] for path in files]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/cdn/"):
            commit, name = path.removeprefix("/cdn/").split("/", 1)
            self.send_file(commit, name)
        elif path.startswith(f"/api/models/{REPO}"):
            self.list_repository(path.removeprefix(f"/api/models/{REPO}"))
        elif path.startswith(f"/{REPO}/resolve/"):
            commit, name = path.removeprefix(f"/{REPO}/resolve/").split("/", 1)
            self.resolve(commit, name)
        else:
            self.refuse(401, "RepoNotFound")

    def list_repository(self, rest: str) -> None:
        revision = rest.removeprefix("/revision/") or "main"
        commit = self.server.branches.get(revision, revision)
        if commit not in self.server.commits:
            return self.refuse(404, "RevisionNotFound")
        siblings = [describe(n, c) for n, c in self.server.commits[commit].items()]
        siblings += [{"rfilename": name} for name in self.server.listed_only]
        if self.server.moves_after_listing:
            self.server.branches["main"] = self.server.moves_after_listing
        body = json.dumps({"id": REPO, "sha": commit, "siblings": siblings}).encode()
        return self.send(200, body, {"Content-Type": "application/json"})

    def resolve(self, revision: str, name: str) -> None:
        token = self.server.gated_with_token
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        commit = self.server.branches.get(revision, revision)
        content = self.server.commits.get(commit, {}).get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        if name not in self.server.redirected:
            return self.send_file(commit, name)
        headers = {
            "Location": f"{self.server.address}/cdn/{commit}/{name}",
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{etag(name, content)}"',
        }
        return self.send(302, b"", headers)

    def send_file(self, commit: str, name: str) -> None:
        content = self.server.commits[commit][name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag(name, content)}"'}
        if name in self.server.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        status = 200
        if start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.cut_after.pop(name, None) if self.command == "GET" else None
        self.send(status, content[start:], headers, cut=cut)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"", {"X-Error-Code": code})

    def send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".pth", ".gguf"))


def etag(name: str, content: bytes) -> str:
    """SHA-256 for files in large-file storage, git's own hash for the others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if is_large(name):
        entry["lfs"] = {"sha256": etag(name, content), "size": len(content), "pointerSize": 134}
    else:
        entry["blobId"] = etag(name, content)
    return entry


def tensor_file(name: str, value: float, size: int = 8) -> bytes:
    return save({name: torch.full((size,), value)})


def sharded_model(value: float) -> dict[str, bytes]:
    shards = {f"model-{i}-of-2.safetensors": tensor_file(f"w{i}", value + i) for i in (1, 2)}
    index = {"weight_map": {f"w{i}": f"model-{i}-of-2.safetensors" for i in (1, 2)}}
    return {
        **shards,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": b'{"hidden_size": 8}',
        "tokenizer.json": b"{}",
        "README.md": b"not needed",
        "pytorch_model.bin": b"never fetched beside safetensors",
        "consolidated.safetensors": b"the same weights once more",
        "original/consolidated.00.pth": b"and again",
    }


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
def fetch(hub: Hub, tmp_path: Path) -> Any:
    def run(
        source: str = REPO, revision: str = "", *, code: str = CLIENT, **environment: str
    ) -> Any:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        done = subprocess.run(
            [sys.executable, "-c", code, source, revision],
            env={
                **inherited,
                "HF_ENDPOINT": hub.address,
                "HF_HOME": str(tmp_path / "hf"),
                "NO_PROXY": "127.0.0.1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        answer["stderr"] = done.stderr
        if "folder" in answer:
            answer["files"] = sorted(path.name for path in Path(answer["folder"]).iterdir())
            checkpoint = open_checkpoint(answer["folder"])
            answer["values"] = {n: checkpoint.read(n)[0].item() for n in checkpoint.tensors}
        return answer

    return run


def test_only_what_is_needed_is_downloaded(hub: Hub, fetch: Any) -> None:
    answer = fetch()
    assert answer["revision"] == FIRST
    assert answer["values"] == {"w1": 11.0, "w2": 12.0}
    wanted = [
        "config.json",
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert answer["files"] == wanted
    assert sorted(hub.downloads()) == wanted


def test_a_hub_id_opens_like_a_path_and_records_its_commit(fetch: Any) -> None:
    answer = fetch(code=OPENING_CLIENT)
    assert (answer["source"], answer["revision"]) == (REPO, FIRST)
    assert answer["hidden_size"] == 8


def test_the_configuration_alone_is_fetched_to_tell_the_family(hub: Hub, fetch: Any) -> None:
    assert fetch(code=CONFIG_CLIENT)["hidden_size"] == 8
    assert hub.downloads() == ["config.json"]


def test_without_a_configuration_the_weights_have_to_say(hub: Hub, fetch: Any) -> None:
    del hub.commits[FIRST]["config.json"]
    assert "no config.json" in fetch(code=CONFIG_CLIENT)["error"]


def test_progress_counts_bytes_and_nothing_is_drawn(fetch: Any) -> None:
    answer = fetch()
    done, total, what = answer["progress"][-1]
    assert (done, what) == (total, "model-2-of-2.safetensors")
    assert [event[0] for event in answer["progress"]] == sorted(e[0] for e in answer["progress"])
    assert answer["stderr"] == ""


def test_what_is_there_is_not_downloaded_again(hub: Hub, fetch: Any) -> None:
    fetch()
    hub.log.clear()
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}
    assert hub.downloads() == []


def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, fetch: Any) -> None:
    name = "model-2-of-2.safetensors"
    # The client writes 10 MB at a time; what it has not written is lost.
    hub.commits[FIRST][name] = tensor_file("w2", 12.0, size=3_000_000)
    hub.cut_after[name] = 11_000_000
    assert fetch()["values"]["w2"] == 12.0
    ranges = [r for method, path, r in hub.log if method == "GET" and path.endswith(name)]
    assert ranges == [None, f"bytes={10 * 1024**2}-"]


def test_redirected_files_are_followed(hub: Hub, fetch: Any) -> None:
    hub.redirected = {"model-1-of-2.safetensors", "model-2-of-2.safetensors"}
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}
    assert any(path.startswith("/cdn/") for _, path, _ in hub.log)


@pytest.mark.parametrize("name", ["model-1-of-2.safetensors", "config.json"])
def test_a_wrong_checksum_is_found_and_not_kept(hub: Hub, fetch: Any, name: str) -> None:
    hub.damaged = {name}
    answer = fetch()
    assert f"{name} arrived damaged" in answer["error"]
    hub.damaged = set()
    assert fetch()["values"] == {"w1": 11.0, "w2": 12.0}


def test_a_revision_that_moves_while_downloading_does_not_mix(hub: Hub, fetch: Any) -> None:
    hub.moves_after_listing = SECOND
    answer = fetch()
    assert answer["revision"] == FIRST
    assert answer["values"] == {"w1": 11.0, "w2": 12.0}


def test_a_branch_that_moved_gives_the_new_commit_beside_the_old(hub: Hub, fetch: Any) -> None:
    old = fetch()
    hub.branches["main"] = SECOND
    new = fetch()
    assert (new["revision"], new["values"]) == (SECOND, {"w1": 21.0, "w2": 22.0})
    assert old["folder"] != new["folder"]
    assert fetch(revision=FIRST)["values"] == {"w1": 11.0, "w2": 12.0}


def test_a_gated_repository_says_where_to_accept_the_licence(hub: Hub, fetch: Any) -> None:
    hub.gated_with_token = "hf_right"
    for environment in ({}, {"HF_TOKEN": "hf_wrong"}):
        answer = fetch(**environment)
        assert "accepted its licence" in answer["error"]
        assert f"{hub.address}/{REPO}" in answer["remedy"]
        assert "HF_TOKEN" in answer["remedy"]
    assert fetch(HF_TOKEN="hf_right")["values"] == {"w1": 11.0, "w2": 12.0}


def test_an_unknown_repository_is_neither_path_nor_hub_id(fetch: Any) -> None:
    answer = fetch("org/typo")
    assert "org/typo is neither a local path nor a repository" in answer["error"]
    assert "spelling" in answer["remedy"]


def test_an_unknown_revision_is_named(fetch: Any) -> None:
    assert fetch(revision="v9")["error"] == f"{REPO} has no revision v9"


def test_a_dead_network_is_told_with_the_address(fetch: Any) -> None:
    answer = fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert f"{REPO} cannot be fetched from http://127.0.0.1:9" in answer["error"]
    assert "HF_HUB_OFFLINE=1" in answer["remedy"]


def test_offline_uses_the_cache_alone(hub: Hub, fetch: Any) -> None:
    answer = fetch(HF_HUB_OFFLINE="1")
    assert "not in the cache and HF_HUB_OFFLINE forbids" in answer["error"]
    fetch()
    hub.log.clear()
    answer = fetch(HF_HUB_OFFLINE="1")
    assert (answer["revision"], answer["values"]) == (FIRST, {"w1": 11.0, "w2": 12.0})
    assert hub.log == []


@pytest.mark.parametrize("name", ["../../evil.safetensors", "/etc/evil.json", "..\\evil.json"])
def test_a_listed_name_that_escapes_is_refused(hub: Hub, fetch: Any, name: str) -> None:
    hub.listed_only = [name]
    assert "outside the repository" in fetch()["error"]
    assert hub.downloads() == []


def test_an_index_that_names_a_file_outside_is_refused(hub: Hub, fetch: Any) -> None:
    index = json.dumps({"weight_map": {"w1": "../../../evil.safetensors"}}).encode()
    hub.commits[FIRST]["model.safetensors.index.json"] = index
    assert "outside the repository" in fetch()["error"]


def test_an_index_that_names_an_absent_shard_is_refused(hub: Hub, fetch: Any) -> None:
    del hub.commits[FIRST]["model-2-of-2.safetensors"]
    assert "names model-2-of-2.safetensors, which the repository does not" in fetch()["error"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"empty"}, "holds no weights that can be read"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "holds 2 GGUF files"),
    ],
)
def test_a_repository_without_one_set_of_weights_is_refused(
    hub: Hub, fetch: Any, files: dict[str, bytes], message: str
) -> None:
    hub.commits[FIRST] = files
    assert message in fetch()["error"]
