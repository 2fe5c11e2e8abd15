"""Which files of a hub repository an export needs."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from llmx.errors import CheckpointError

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "chat_template.jinja",
    "params.json",
)
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def check_names(repo_id: str, names: Collection[str]) -> None:
    """Refuse a repository that lists a file outside of itself."""
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]:
            raise CheckpointError(
                f"{repo_id} lists the file {name!r}, which is outside the repository",
                remedy="Do not trust this repository.",
            )


def choose_companions(names: Collection[str]) -> list[str]:
    """The small files; those in folders belong to other copies of the model."""
    return [name for name in COMPANIONS if name in names]


def choose_index(names: Collection[str]) -> str | None:
    """The index of a sharded checkpoint; pickles only where there are no safetensors."""
    safetensors, pickles = INDEXES
    if safetensors in names:
        return safetensors
    if pickles in names and not _matching(names, "*.safetensors"):
        return pickles
    return None


def choose_weights(repo_id: str, names: Collection[str]) -> list[str]:
    """The weight files of a repository without an index, in one format only."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    for pattern in ("*.safetensors", "consolidated*.pth", "pytorch_model*.bin"):
        if found := _matching(names, pattern):
            return found
    found = _matching(names, "*.gguf")
    if len(found) > 1:
        raise CheckpointError(
            f"{repo_id} holds {len(found)} GGUF files: {', '.join(found[:3])} …",
            remedy="Download the one that you want and name its path.",
        )
    if not found:
        raise CheckpointError(
            f"{repo_id} holds no weights that can be read",
            remedy="Name a repository with safetensors, Meta's .pth files or one GGUF file.",
        )
    return found


def _matching(names: Collection[str], pattern: str) -> list[str]:
    return sorted(name for name in names if "/" not in name and fnmatchcase(name, pattern))
