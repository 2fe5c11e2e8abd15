"""How much memory this process may use, and how much it does."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COLLECTED_AFTER = (50_000, 20, 20)
"""New objects, and rounds of looking through the young, before the older are looked through."""
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
OWN_STATUS = Path("/proc/self/status")
OWN_REFERENCES = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"
LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Names of limit, usage and reclaimable part in cgroups of version 2 and 1."""


def available_memory() -> int | None:
    """Bytes that the process may hold, what it holds already included.

    The least of what the machine has left and what its control groups leave. ``None`` where the
    system does not say.
    """
    room = [*_machine_room(), *_group_room()]
    return max(0, min(room)) + _status("VmRSS") if room else None


def peak_memory() -> int:
    """The most bytes that this program has held at a time."""
    # What the system counts for a process begins with the one that started it.
    return _status("VmHWM") or _peak_of_process()


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Let the C library return what is freed to the system, where it can be asked to (glibc)."""
    import ctypes  # not for listings, which look for memory nowhere

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for unreachable objects after many new ones only.

    An export imports and traces: most of what it makes stays, and looking through that after every
    700 objects, as Python does, takes a twelfth of its time.
    """
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTED_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class AddedMemory:
    """Resident bytes that this process has come to hold since this object was made.

    Pages of files that are mapped count as far as they were read.
    """

    def __init__(self) -> None:
        self.before = _status("VmRSS")
        try:
            OWN_REFERENCES.write_text(FORGET_PEAK, encoding="ascii")
            self._follows = self.before > 0
        except OSError:
            self._follows = False

    def now(self) -> int | None:
        """What is held now; ``None`` where the system does not say (other than Linux)."""
        return max(0, _status("VmRSS") - self.before) if self._follows else None

    def peak(self) -> int | None:
        """The most that was held at a time, or ``None`` likewise."""
        return max(0, _status("VmHWM") - self.before) if self._follows else None


def _machine_room() -> Iterator[int]:
    for line in _read(MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _group_room() -> Iterator[int]:
    """What each control group from the process's own up to the root leaves."""
    for folder in _groups():
        for limit_name, usage_name, reclaimable_name in LIMITS:
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                yield limit - usage + _statistic(folder / "memory.stat", reclaimable_name)


def _groups() -> Iterator[Path]:
    for line in _read(OWN_CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        folder = root / path.lstrip("/")
        # In a container the path may be the host's; its own group is then mounted as the root.
        for each in (folder, *folder.parents):
            if each.is_relative_to(root):
                yield each


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _statistic(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return 0


def _status(name: str) -> int:
    for line in _read(OWN_STATUS).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
