"""An exported model, and the checkpoint that it can be held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.artifact import MANIFEST_NAME, Artifact
from llmx.errors import ArtifactError, CheckpointError
from llmx.progress import Stages
from llmx.pte import read_contents
from llmx.run.tokenizer import TextTokenizer, load_tokenizer
from llmx.verify.reference import Reference, job_for, recorded_job

LOOSE_BOUND = 0.5
"""For programs whose record does not say how exact they are; see ``parity_bound``."""


@frozen
class Subject:
    """What is verified: a program, and as much as is known about it."""

    program: Path
    artifact: Artifact | None
    tokenizer: Path | None

    @classmethod
    def open(cls, path: Path) -> Subject:
        """An artifact's folder, or a ``.pte`` alone."""
        if path.is_file():
            return cls(path, None, None)
        artifact = Artifact.open(path)
        return cls(artifact.program, artifact, artifact.tokenizer)

    def load_tokenizer(self, other: Path | None = None) -> TextTokenizer:
        """The model's tokenizer, or ``other``.

        Raises:
            ArtifactError: there is none, or the runtime cannot load it.
        """
        chosen = other or self.tokenizer
        if chosen is None:
            raise ArtifactError(
                f"{self.program} has no tokenizer",
                remedy="name its tokenizer.json or tokenizer.model with --tokenizer FILE",
            )
        return load_tokenizer(chosen)

    @property
    def manifest(self) -> Mapping[str, Any]:
        return {} if self.artifact is None else self.artifact.manifest

    @property
    def exact(self) -> bool:
        """Whether neither weights nor caches are rounded to integers, as far as anybody says."""
        if self.artifact is None:
            return False
        cache = self.manifest["config"]["model"]["quantize_kv_cache"]
        return not cache and not self.manifest["weights"]["quantized_layers"]

    @property
    def bound(self) -> float:
        """How exact the program's arithmetic is, as the export found."""
        checks = self.manifest.get("checks") or [{}]
        return float(checks[0].get("bound") or LOOSE_BOUND)


def find_reference(
    subject: Subject, checkpoint: str | None, family: str | None, stages: Stages
) -> Reference:
    """Load ``checkpoint``, or what the artifact was made from.

    Args:
        family: of ``checkpoint``, where a program is alone; ``None`` lets it tell.

    Raises:
        CheckpointError: it is not here, not named, or does not fit.
    """
    if subject.artifact is not None:
        job = recorded_job(subject.artifact.folder / MANIFEST_NAME, checkpoint)
    elif checkpoint is None:
        raise CheckpointError("no checkpoint is known", remedy="name it with --reference")
    else:
        job = job_for(checkpoint, family, read_contents(subject.program).metadata)
    return Reference(job, stages)
