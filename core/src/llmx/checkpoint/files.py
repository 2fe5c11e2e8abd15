"""Reading the small files around a checkpoint, and hashing the large ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.checkpoint.base import Checkpoint
from llmx.errors import CheckpointError


def read_json(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}", remedy="Fetch the file again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def read_json_if_present(path: Path) -> Mapping[str, Any]:
    """The JSON object in ``path``, or an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


def contained(folder: Path, name: str) -> Path:
    """The file ``name`` directly or deeper inside ``folder``.

    Indexes come from strangers: a name that leads out of the folder is refused. Symbolic links
    are not followed for the check, since download caches are made of them.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{folder}: the index names {name!r}, which is outside the folder",
            remedy="Do not trust this checkpoint; fetch it from its author again.",
        )
    return folder / name


def source_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each weight file in hexadecimal, by file name."""
    return {path.name: file_hash(path) for path in checkpoint.files}


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
