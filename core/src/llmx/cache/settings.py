"""A job as far as it decides a result: without places, with the content of the files it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.checkpoint.files import file_hash
from llmx.config import ExportJob

OUTPUT = ("output_dir", "output_name")
SHOWN = ("verbose", "profile_path", "report")
"""Keys of ``debug`` that change no program."""
SOURCE = (
    "checkpoint",
    "revision",
    "size",
    "params",
    "tokenizer_path",
    "random_weights",
    "lora_config",
)
"""Keys of ``base`` whose meaning is in the weights, the parameters and the tokenizer."""


def decisive_settings(job: ExportJob) -> dict[str, Any]:
    """All options that a program may depend on, as JSON types.

    Files and folders that an option names stand there by the digest of what they hold.
    """
    settings = job.to_dict()
    for key in OUTPUT:
        settings["export"].pop(key)
    for key in SOURCE:
        settings["base"].pop(key)
    for key in SHOWN:
        settings["debug"].pop(key)
    settings.pop("recipe")
    return {name: _with_contents(value) for name, value in settings.items()}


def _with_contents(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_contents(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_contents(each) for each in value]
    if isinstance(value, str):
        return _content(Path(value)) or value
    return value


def _content(path: Path) -> dict[str, str] | None:
    """Digests of a file, or of the files in a folder; ``None`` if there is no such thing."""
    try:
        if path.is_file():
            return {"": file_hash(path)}
        # A word such as "none" may be a folder's name by accident: only paths are looked into.
        if path.is_dir() and len(path.parts) > 1:
            inside = sorted(each for each in path.rglob("*") if each.is_file())
            return {str(each.relative_to(path)): file_hash(each) for each in inside}
    except OSError:
        return None
    return None
