"""The folder that an export produces, and how it comes into being all at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.errors import ArtifactError
from llmx.report.model_card import model_card

MANIFEST_NAME = "llmx.json"
CARD_NAME = "MODEL_CARD.md"
FORMAT = 1


@frozen
class Artifact:
    """An exported model: ``model.pte``, its tokenizer and ``llmx.json`` in one folder.

    Attributes:
        folder: where the files are.
        manifest: the content of ``llmx.json``; ``docs/artifact.md`` describes it.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Artifact:
        """Read an artifact's manifest.

        Raises:
            ArtifactError: it is not there, not readable, or of a newer format.
        """
        path = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise ArtifactError(
                f"no such folder: {folder}", remedy="make one with: llmx export FAMILY -o DIR"
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ArtifactError(
                f"{folder} has no {MANIFEST_NAME}, so it is not an exported model",
                remedy="name the folder that llmx export wrote, or a .pte file with --tokenizer",
            ) from None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ArtifactError(
                f"{path} is not of format {FORMAT}", remedy="export again with this version of llmx"
            )
        return cls(folder, manifest)

    @property
    def program(self) -> Path:
        """The ``.pte`` file."""
        return self.folder / str(self.manifest["program"]["file"])

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer as the runner loads it, if the checkpoint had one."""
        name = self.manifest["tokenizer"]
        return self.folder / str(name) if name else None

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template, if there is one."""
        template = self.manifest["chat_template"]
        return str(template) if template else None

    @property
    def failed(self) -> bool:
        """Whether a check failed, when it was made or the last time that it was verified."""
        verification = self.manifest["verification"]
        return verification is not None and not verification["passed"]


def check_output(folder: Path) -> None:
    """Find out before the work whether ``folder`` can be written at its end.

    Raises:
        ArtifactError: it holds other people's files, or its parent cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file", remedy="choose a folder with -o DIR")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise ArtifactError(
            f"{folder} holds files that llmx did not write",
            remedy="choose a new or empty folder with -o DIR",
        )
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=".llmx-"):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``folder`` when the block ends well, and vanishes if not.

    An artifact that was there before is replaced as a whole.

    Raises:
        ArtifactError: nothing can be written there, or the disk is full.
    """
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield scratch
        _publish(scratch, folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path) -> None:
    for path in scratch.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    # mkdtemp makes it private to the user; an artifact has the permissions of any new folder.
    umask = os.umask(0)
    os.umask(umask)
    scratch.chmod(0o777 & ~umask)
    if not folder.exists():
        scratch.rename(folder)
        return
    # Two renames: for an instant there is no artifact, never half of one.
    retired = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}-old-"))
    try:
        folder.rename(retired / folder.name)
        try:
            scratch.rename(folder)
        except OSError:
            (retired / folder.name).rename(folder)
            raise
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``llmx.json``."""
    text = json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``MODEL_CARD.md``, which tells people what ``llmx.json`` says."""
    (folder / CARD_NAME).write_text(model_card(manifest), encoding="utf-8")


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of every file in ``folder``, by name."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def record(folder: Path, **entries: Any) -> None:
    """Add entries to an artifact's ``llmx.json``, or replace them, and write its card anew.

    Raises:
        ArtifactError: there is no artifact, or it cannot be written.
    """
    manifest = {**Artifact.open(folder).manifest, **entries}
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".llmx-") as scratch:
            write_manifest(Path(scratch), manifest)
            write_card(Path(scratch), manifest)
            # No reader ever sees a file that is half-written.
            for path in Path(scratch).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> ArtifactError:
    reason = error.strerror or str(error)
    return ArtifactError(
        f"cannot write {folder}: {reason}",
        remedy="free some space or choose another place with -o DIR",
    )
