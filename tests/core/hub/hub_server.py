"""A server on this machine that speaks the hub's protocol and goes wrong as it is told."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import save

FIRST, SECOND = "1" * 40, "2" * 40
REPO = "org/model"


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
        self.stalls: dict[str, tuple[int, threading.Event]] = {}
        self.ignores_ranges = False
        self.damaged: set[str] = set()
        self.redirected: set[str] = set()
        self.moves_after_listing: str | None = None
        self.log: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stall(self, name: str, *, after: int) -> threading.Event:
        """Send no more than so many bytes of a file, once; the event tells that they are sent."""
        sent = threading.Event()
        self.stalls[name] = after, sent
        return sent

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
        wanted = None if self.server.ignores_ranges else self.headers.get("Range")
        start = int((wanted or "bytes=0-")[6:-1])
        status = 200
        if start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and name in self.server.stalls:
            cut, sent = self.server.stalls.pop(name)
            self.send(status, content[start:], headers, cut=cut)
            sent.set()
            with suppress(ConnectionError):
                self.rfile.read(1)  # until the client is gone
            return
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
