"""A checkpoint's configuration alone, before anything large is read or downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.checkpoint.companions import read_companions
from llmx.checkpoint.opening import HUB_ID, WEIGHT_SUFFIXES, open_checkpoint
from llmx.errors import CheckpointError


def read_config(source: str, *, revision: str | None, params: Path | None) -> Mapping[str, Any]:
    """What ``Checkpoint.config`` will hold, by the cheapest way there is.

    A ``config.json`` is read as it is; only checkpoints that have none are opened. Of a hub
    repository that has one, nothing else is downloaded.

    Raises:
        CheckpointError: the checkpoint says nothing about itself, or is not there.
    """
    config = _beside_weights(source, revision, params)
    if not config:
        config = open_checkpoint(source, revision=revision, params=params).config
    if not config:
        raise CheckpointError(
            f"{source} has no config.json or params.json, so its family cannot be told",
            remedy=f"name the family: llmx export FAMILY --checkpoint {source}",
        )
    return config


def _beside_weights(source: str, revision: str | None, params: Path | None) -> Mapping[str, Any]:
    path = Path(source).expanduser()
    if path.is_dir():
        folder: Path | None = path
    elif path.is_file():
        # What lies beside a GGUF file may belong to another model.
        folder = None if path.suffix == ".gguf" else path.parent
    elif HUB_ID.fullmatch(source) and not source.endswith(WEIGHT_SUFFIXES):
        from llmx.checkpoint import hub

        folder = hub.resolve_config(source, revision)
    else:
        folder = None
    return {} if folder is None else read_companions(folder, params).hf_config
