"""Recognising a file's format by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from llmx.errors import CheckpointError

Format = Literal["safetensors", "torch", "gguf"]

SIGNATURE_BYTES = 64
MAX_SAFETENSORS_HEADER = 100_000_000
ZIP = b"PK\x03\x04"
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
LFS_POINTER = b"version https://git-lfs"


def sniff(path: Path) -> Format:
    """The format of a weight file.

    Raises:
        CheckpointError: it is none of those that can be read.
    """
    start = _first_bytes(path)
    kind = _recognise(start)
    if kind is not None:
        return kind
    if not start:
        raise CheckpointError(f"{path} is empty", remedy="Fetch the file again.")
    if start.startswith(LFS_POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself", remedy="Run: git lfs pull"
        )
    if start.startswith(PICKLE):
        raise CheckpointError(
            f"{path} is in the format that torch.save used before 2020",
            remedy="Load it with the program that wrote it and save it as safetensors.",
        )
    raise CheckpointError(
        f"{path} is not a checkpoint: neither safetensors, nor a file of torch.save, nor GGUF",
        remedy="If its name says otherwise, fetch it again: the download may be damaged.",
    )


def sniff_all(folder: Path) -> dict[Format, tuple[Path, ...]]:
    """The weight files directly in ``folder`` by format; other files are passed over."""
    found: dict[Format, tuple[Path, ...]] = {"safetensors": (), "torch": (), "gguf": ()}
    for path in sorted(folder.iterdir()):
        kind = _recognise(_first_bytes(path)) if path.is_file() else None
        if kind is not None:
            found[kind] = (*found[kind], path)
    return found


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(SIGNATURE_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _recognise(start: bytes) -> Format | None:
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(ZIP):
        return "torch"
    header_length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header_length < MAX_SAFETENSORS_HEADER:
        return "safetensors"
    return None
