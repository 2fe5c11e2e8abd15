"""The cache on disk: whole entries or none, a bound on its size, and several processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmx import ConfigError
from llmx.cache import DiskStore, NoStore, default_store
from llmx.cache.location import cache_limit
from llmx.cli import invoke

BLOCK = 64 * 1024


def put(store: DiskStore, key: str, *, kind: str = "weights", size: int = BLOCK) -> None:
    with store.keep(kind, key) as folder:
        assert folder is not None
        (folder / "content").write_bytes(key.encode() * (size // len(key)))


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "cache", 100 * BLOCK)


def test_what_was_kept_is_found(store: DiskStore) -> None:
    assert store.find("weights", "a") is None
    put(store, "a")
    found = store.find("weights", "a")
    assert found is not None
    assert (found / "content").read_bytes().startswith(b"aaa")
    assert store.find("programs", "a") is None


def test_an_entry_that_fails_to_be_made_is_not_there(store: DiskStore) -> None:
    with pytest.raises(RuntimeError), store.keep("weights", "a") as folder:
        assert folder is not None
        (folder / "content").write_bytes(b"half of")
        raise RuntimeError
    assert store.find("weights", "a") is None
    assert store.entries() == []


def test_a_full_disk_costs_the_entry_and_nothing_else(store: DiskStore) -> None:
    with store.keep("weights", "a"):
        raise OSError(28, "No space left on device")
    assert store.find("weights", "a") is None


def test_the_first_of_two_equal_entries_stays(store: DiskStore) -> None:
    with store.keep("weights", "a") as folder:
        assert folder is not None
        (folder / "content").write_bytes(b"slow")
        put(store, "a")
    found = store.find("weights", "a")
    assert found is not None
    assert (found / "content").read_bytes().startswith(b"aaa")


def test_the_least_recently_used_go_first(store: DiskStore) -> None:
    for key in ("a", "b", "c"):
        put(store, key)
        time.sleep(0.02)
    assert store.find("weights", "a")
    DiskStore(store.root, 2 * BLOCK + BLOCK // 2).trim()
    assert sorted(entry.key for entry in store.entries()) == ["a", "c"]


def test_it_stays_within_its_limit_while_it_is_filled(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "cache", 10 * BLOCK)
    for number in range(40):
        put(store, f"{number:02}")
    store.trim()
    assert 5 * BLOCK <= sum(entry.bytes for entry in store.entries()) <= 10 * BLOCK
    assert store.find("weights", "39")


def test_what_exceeds_the_whole_limit_is_not_kept(store: DiskStore) -> None:
    put(store, "a")
    put(store, "large", size=200 * BLOCK)
    assert store.find("weights", "large") is None
    assert store.find("weights", "a")


def test_an_open_entry_stays_readable_when_it_is_removed(store: DiskStore) -> None:
    put(store, "a")
    found = store.find("weights", "a")
    assert found is not None
    with (found / "content").open("rb") as file:
        store.clear()
        assert store.find("weights", "a") is None
        assert len(file.read()) == BLOCK


def test_a_place_that_cannot_be_written_keeps_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DiskStore(tmp_path / "file" / "cache", 100)
    with store.keep("weights", "a") as folder:
        assert folder is None
    assert store.find("weights", "a") is None
    store.trim()
    store.clear()


WORKER = """
import sys
from pathlib import Path
from llmx.cache import DiskStore
store = DiskStore(Path(sys.argv[1]), 12 * 65536)
for turn in range(150):
    key = f"{turn % 20:02}"
    found = store.find("weights", key)
    if found is not None:
        try:
            content = (found / "content").read_bytes()
        except FileNotFoundError:
            continue
        assert content == key.encode() * 32768, (key, len(content))
    with store.keep("weights", key) as folder:
        with (folder / "content").open("wb") as file:
            for _ in range(32):
                file.write(key.encode() * 1024)
store.trim()
"""


def test_processes_never_see_half_an_entry_and_keep_the_limit_together(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    store = DiskStore(tmp_path, 12 * BLOCK)
    assert 0 < sum(entry.bytes for entry in store.entries()) <= 12 * BLOCK
    assert not list((tmp_path / "scratch").iterdir())


class TestPlace:
    def test_the_variable_decides(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LLMX_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("LLMX_CACHE_SIZE", "1.5")
        assert default_store() == DiskStore(tmp_path, 1_500_000_000)

    def test_set_to_nothing_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLMX_CACHE_DIR", "")
        assert isinstance(default_store(), NoStore)

    @pytest.mark.parametrize("text", ["much", "-1", "nan"])
    def test_a_size_that_is_none(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("LLMX_CACHE_SIZE", text)
        with pytest.raises(ConfigError, match="LLMX_CACHE_SIZE"):
            cache_limit()


class TestCommand:
    @pytest.fixture
    def filled(self, monkeypatch: pytest.MonkeyPatch, store: DiskStore) -> DiskStore:
        monkeypatch.setenv("LLMX_CACHE_DIR", str(store.root))
        put(store, "a")
        put(store, "b", kind="skeletons")
        return store

    def test_it_shows_kinds_and_sizes(
        self, filled: DiskStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert invoke(["cache"]) == 0
        shown = capsys.readouterr().out
        assert "quantized weights" in shown
        assert "lowered programs without weights" in shown
        assert str(filled.root) in shown.replace("\n", "")

    def test_it_shows_json(self, filled: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
        assert invoke(["cache", "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["folder"] == str(filled.root)
        assert {entry["key"] for entry in described["entries"]} == {"a", "b"}
        assert described["bytes"] == sum(entry["bytes"] for entry in described["entries"])

    def test_it_clears(self, filled: DiskStore, capsys: pytest.CaptureFixture[str]) -> None:
        assert invoke(["cache", "clear"]) == 0
        assert "removed 0.00 GB" in capsys.readouterr().out
        assert filled.entries() == []

    def test_it_says_that_there_is_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("LLMX_CACHE_DIR", "")
        assert invoke(["cache"]) == 0
        assert "LLMX_CACHE_DIR" in capsys.readouterr().out
