"""What earlier exports left behind for later ones, on disk, keyed by content."""

from __future__ import annotations

from llmx.cache.location import default_store
from llmx.cache.store import DiskStore, NoStore, Store

__all__ = ["DiskStore", "NoStore", "Store", "default_store"]
