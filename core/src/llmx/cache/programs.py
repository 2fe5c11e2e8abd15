"""Finished programs, to be copied when the same export is asked for again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.cache.store import Store
from llmx.checkpoint.files import file_hash

KIND = "programs"
PROGRAM, FACTS = "program.pte", "facts.json"


def copy_program(
    store: Store, key: str, path: Path, beside: Sequence[str]
) -> Mapping[str, Any] | None:
    """Copy the program of ``key`` to ``path`` and give the facts that were kept with it.

    ``None`` if there is none. A copy whose content is not the kept one's is not used.

    Args:
        beside: names of the files with the program's data, which lie in its folder.
    """
    folder = store.find(KIND, key)
    if folder is None:
        return None
    places = _places(folder, path, beside)
    try:
        kept = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        facts: Mapping[str, Any] = kept["facts"]
        for inside, outside in places.items():
            shutil.copyfile(inside, outside)
        if all(
            file_hash(outside) == kept["sha256"][inside.name] for inside, outside in places.items()
        ):
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass
    store.forget(KIND, key)
    for outside in places.values():
        outside.unlink(missing_ok=True)
    return None


def keep_program(
    store: Store, key: str, path: Path, beside: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Keep a program, the files ``beside`` it with its data, and JSON-able facts about it."""
    with store.keep(KIND, key) as folder:
        if folder is not None:
            places = _places(folder, path, beside)
            for inside, outside in places.items():
                shutil.copyfile(outside, inside)
            hashes = {inside.name: file_hash(outside) for inside, outside in places.items()}
            kept = {"sha256": hashes, "facts": dict(facts)}
            (folder / FACTS).write_text(json.dumps(kept), encoding="utf-8")


def _places(folder: Path, path: Path, beside: Sequence[str]) -> Mapping[Path, Path]:
    """Files within the store, and where they are outside of it."""
    return {folder / PROGRAM: path, **{folder / each: path.parent / each for each in beside}}
