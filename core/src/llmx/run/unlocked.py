"""Loading programs without keeping their tables in memory."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager

CAPABILITIES_VERSION = 0x20080522
LOCK_PAGES = 1 << 14
"""``CAP_IPC_LOCK``, which root has unless a container took it away: no limit holds then."""


@contextmanager
def without_locked_pages() -> Iterator[None]:
    """Within it, this thread cannot lock pages in memory.

    Where it may, ExecuTorch's runtime locks a program's constants, the embedding's table foremost:
    all of it is read and held then, though a call needs a few rows. Where it may not, it maps
    them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
    capabilities = _capabilities()
    _set(capabilities, without=LOCK_PAGES)
    try:
        yield
    finally:
        _set(capabilities)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    """32 capabilities, a bit each."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _capabilities() -> ctypes.Array[_Words] | None:
    """What this thread may do; ``None`` where there are no capabilities (other than Linux)."""
    words = (_Words * 2)()
    get = getattr(ctypes.CDLL(None), "capget", None)
    if get is None or get(ctypes.byref(_header()), words):
        return None
    return words


def _set(capabilities: ctypes.Array[_Words] | None, without: int = 0) -> None:
    if capabilities is None:
        return
    words = (_Words * 2)(*capabilities)
    words[0].effective &= ~without
    # It may always give up what it has and take back what it is permitted.
    ctypes.CDLL(None).capset(ctypes.byref(_header()), words)


def _header() -> _Header:
    return _Header(CAPABILITIES_VERSION, 0)
