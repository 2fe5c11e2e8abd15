"""Where the user's cache is, and how large it may become."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llmx.cache.store import DiskStore, NoStore, Store
from llmx.errors import ConfigError

FOLDER_VARIABLE = "LLMX_CACHE_DIR"
SIZE_VARIABLE = "LLMX_CACHE_SIZE"
DEFAULT_GIGABYTES = 20.0
GIGA = 1_000_000_000


def cache_folder() -> Path | None:
    """``LLMX_CACHE_DIR``, or ``llmx`` in the system's place for caches; ``None`` if it is empty."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llmx"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "llmx"


def cache_limit() -> int:
    """Bytes that the cache may hold: ``LLMX_CACHE_SIZE`` in gigabytes.

    Raises:
        ConfigError: it is not a number.
    """
    text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GIGABYTES)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise ConfigError(
            f"{SIZE_VARIABLE}={text} is not a number of gigabytes",
            remedy=f"set it to a number, {DEFAULT_GIGABYTES:g} if left out",
        )
    return int(gigabytes * GIGA)


def default_store() -> Store:
    """The user's cache; one that keeps nothing if ``LLMX_CACHE_DIR`` is set to nothing."""
    folder = cache_folder()
    return NoStore() if folder is None else DiskStore(folder, cache_limit())
