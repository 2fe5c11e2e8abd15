"""Folders on disk by kind and key, with the least recently used ones removed.

Several processes may use one store. An entry appears by a rename, complete or not at all. A reader
may find that an entry vanished between finding and opening it; an open file stays readable.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

LOCK = "lock"
SCRATCH = "scratch"
TRIM_AFTER = 0.05
"""Share of the limit that may be added before the store is looked through again."""


@frozen
class Entry:
    """One kept folder: its size in bytes on disk, and when it was last used (seconds, epoch)."""

    kind: str
    key: str
    path: Path
    bytes: int
    used: float


class Store(Protocol):
    """Keeps folders by kind and key."""

    def find(self, kind: str, key: str) -> Path | None:
        """The entry's folder, or ``None``; counts as a use."""

    def keep(self, kind: str, key: str) -> AbstractContextManager[Path | None]:
        """A context that yields an empty folder, which becomes the entry if the block ends well.

        It yields ``None`` where nothing is kept. An ``OSError`` in the block ends it quietly.
        """

    def forget(self, kind: str, key: str) -> None:
        """Remove an entry, because it turned out to be damaged."""

    def trim(self) -> None:
        """Remove what exceeds the limit, the least recently used first."""


class NoStore:
    """Keeps nothing and finds nothing."""

    def find(self, kind: str, key: str) -> Path | None:
        return None

    @contextmanager
    def keep(self, kind: str, key: str) -> Iterator[Path | None]:
        yield None

    def forget(self, kind: str, key: str) -> None:
        pass

    def trim(self) -> None:
        pass


@define
class DiskStore:
    """A store in ``root`` that holds at most ``limit`` bytes once it is trimmed.

    Trouble with the disk costs the entry, never the export.
    """

    root: Path
    limit: int
    _added: int = field(default=0, init=False)

    def find(self, kind: str, key: str) -> Path | None:
        path = self._path(kind, key)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    @contextmanager
    def keep(self, kind: str, key: str) -> Iterator[Path | None]:
        scratch = self._scratch()
        if scratch is None:
            yield None
            return
        try:
            yield scratch
            self._publish(scratch, self._path(kind, key))
        except OSError:
            # A full disk, most likely.
            return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def forget(self, kind: str, key: str) -> None:
        self._remove(self._path(kind, key))

    def trim(self) -> None:
        with self._locked():
            entries = sorted(self.entries(), key=lambda entry: entry.used)
            excess = sum(entry.bytes for entry in entries) - self.limit
            for entry in entries:
                if excess <= 0:
                    break
                self._remove(entry.path)
                excess -= entry.bytes
        self._added = 0

    def entries(self) -> list[Entry]:
        """Everything that is kept."""
        found = []
        for kind in _children(self.root):
            if kind.name in (LOCK, SCRATCH):
                continue
            for path in _children(kind):
                try:
                    used = path.stat().st_mtime
                    found.append(Entry(kind.name, path.name, path, _size(path), used))
                except FileNotFoundError:
                    continue
        return found

    def clear(self) -> None:
        """Remove every entry, and what killed processes left behind."""
        with self._locked():
            for child in _children(self.root):
                if child.name != LOCK:
                    self._remove(child)

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key

    def _scratch(self) -> Path | None:
        try:
            (self.root / SCRATCH).mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(dir=self.root / SCRATCH))
        except OSError:
            return None

    def _publish(self, scratch: Path, target: Path) -> None:
        size = _size(scratch)
        if size > self.limit:
            return
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.rename(target)
        except OSError:
            # Another process was first, or the disk is full: either way there is nothing to keep.
            return
        os.utime(target)
        self._added += size
        if self._added > self.limit * TRIM_AFTER:
            self.trim()

    def _remove(self, path: Path) -> None:
        # Out of sight first: no reader finds an entry that is half removed.
        scratch = self._scratch()
        if scratch is None:
            return
        try:
            path.rename(scratch / "removed")
        except OSError:
            pass
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / LOCK).open("w")
        except OSError:
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _size(folder: Path) -> int:
    """Bytes on disk: a sparse file counts for what it holds."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
