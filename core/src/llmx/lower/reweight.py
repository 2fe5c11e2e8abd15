"""Another checkpoint of the same architecture in the place of an artifact's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from llmx.config.loading import load_job
from llmx.errors import CheckpointError
from llmx.progress import Progress, Silent, Stages
from llmx.quiet import hushed

if TYPE_CHECKING:
    from llmx.artifact import Artifact
    from llmx.cache import Store
    from llmx.lower.forecast import MemoryRule
    from llmx.model.params import DecoderParams


def reweight(
    artifact: Artifact,
    checkpoint: str,
    output_dir: Path,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
    memory: MemoryRule | None = None,
) -> Artifact:
    """Export ``checkpoint`` as ``artifact`` was exported, to another folder.

    The lowered program comes from the cache if it is there, and is made again if not.

    Raises:
        CheckpointError: the checkpoint is of another architecture.
        LlmxError: as ``export``.
    """
    settings: dict[str, Any] = {
        "base.checkpoint": checkpoint,
        "base.revision": revision,
        "base.size": None,
        "base.params": None,
        "base.random_weights": False,
        "base.lora_config": None,
        "export.output_dir": str(output_dir),
    }
    job = load_job(config=artifact.folder / "llmx.json", settings=settings).job
    stages = Stages(progress or Silent())
    with hushed():
        with stages.stage("start"):
            from llmx.cache import default_store
            from llmx.lower.forecast import require_memory
            from llmx.lower.pipeline import run
        accept = _same_as(artifact.manifest["model"]["params"], checkpoint)
        return run(job, stages, store or default_store(), memory or require_memory, accept)


def _same_as(wanted: Mapping[str, Any], checkpoint: str) -> Callable[[DecoderParams], None]:
    def accept(params: DecoderParams) -> None:
        found = json.loads(json.dumps(attrs.asdict(params)))
        differing = [
            f"{name} is {found.get(name)}, not {wanted.get(name)}"
            for name in {**wanted, **found}
            if found.get(name) != wanted.get(name)
        ]
        if differing:
            raise CheckpointError(
                f"{checkpoint} is of another architecture: {'; '.join(differing)}",
                remedy="export it by itself: llmx export --checkpoint",
            )

    return accept
