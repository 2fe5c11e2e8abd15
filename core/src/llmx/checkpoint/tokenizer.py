"""The tokenizer of a checkpoint, where the runner wants it."""

from __future__ import annotations

from pathlib import Path

from llmx.checkpoint.base import Checkpoint, TokenizerSections
from llmx.errors import ArtifactError


def save_tokenizer(
    checkpoint: Checkpoint, folder: Path, *, sections: TokenizerSections
) -> Path | None:
    """Put the checkpoint's tokenizer into ``folder``.

    ``tokenizer.json`` is preferred, then ``tokenizer.model``; GGUF files have theirs converted.

    Args:
        folder: exists already.
        sections: the family's ``gguf_tokenizer`` hook.

    Returns:
        The file written, or ``None`` if the checkpoint has no tokenizer.

    Raises:
        CheckpointError: the tokenizer cannot be converted.
    """
    try:
        return checkpoint.write_tokenizer(folder, sections)
    except OSError as error:
        raise ArtifactError(
            f"cannot write the tokenizer into {folder}: {error.strerror or error}",
            remedy="Choose another folder, or make room.",
        ) from error
