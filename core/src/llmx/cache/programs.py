"""Finished programs, to be copied when the same export is asked for again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.cache.store import Store
from llmx.checkpoint.files import file_hash

KIND = "programs"
PROGRAM, FACTS = "program.pte", "facts.json"


def copy_program(store: Store, key: str, path: Path) -> Mapping[str, Any] | None:
    """Copy the program of ``key`` to ``path`` and give the facts that were kept with it.

    ``None`` if there is none. A copy whose content is not the kept one's is not used.
    """
    folder = store.find(KIND, key)
    if folder is None:
        return None
    try:
        kept = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        shutil.copyfile(folder / PROGRAM, path)
        facts: Mapping[str, Any] = kept["facts"]
        if file_hash(path) == kept["sha256"]:
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass
    store.forget(KIND, key)
    path.unlink(missing_ok=True)
    return None


def keep_program(store: Store, key: str, path: Path, facts: Mapping[str, Any]) -> None:
    """Keep a program and JSON-able facts about it."""
    with store.keep(KIND, key) as folder:
        if folder is not None:
            shutil.copyfile(path, folder / PROGRAM)
            kept = {"sha256": file_hash(path), "facts": dict(facts)}
            (folder / FACTS).write_text(json.dumps(kept), encoding="utf-8")
