"""What stands beside the program in an artifact: the tokenizer and the chat template."""

from __future__ import annotations

import shutil
from pathlib import Path

from llmx.checkpoint import Checkpoint, save_tokenizer
from llmx.config import BaseOptions
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.lower.tokenizer_file import leave_accents_alone


def write_tokenizer(
    checkpoint: Checkpoint | None, base: BaseOptions, family: FamilySpec, folder: Path
) -> Path | None:
    """Put the tokenizer that was named, or else the checkpoint's own, into ``folder``.

    What the runtime would do wrongly is left out of it.

    Raises:
        CheckpointError: the named file is not there, or the checkpoint's cannot be converted.
    """
    written = published_tokenizer(checkpoint, base, family, folder)
    if written is not None:
        leave_accents_alone(written)
    return written


def published_tokenizer(
    checkpoint: Checkpoint | None, base: BaseOptions, family: FamilySpec, folder: Path
) -> Path | None:
    """As ``write_tokenizer``, but left as its publishers made it."""
    if base.tokenizer_path is not None:
        source = Path(base.tokenizer_path)
        if not source.is_file():
            raise CheckpointError(
                f"no such tokenizer file: {source}", remedy="check base.tokenizer_path"
            )
        target = folder / f"tokenizer{source.suffix}"
        shutil.copyfile(source, target)
        return target
    if checkpoint is None:
        return None
    return save_tokenizer(
        checkpoint, folder, sections=lambda name: family.gguf_tokenizer(name=name)
    )
