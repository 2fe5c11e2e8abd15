"""From the eager model to a program: ``torch.export``, edge dialect, delegation, emission."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.progress import Progress, Silent, Stages
from llmx.quiet import hushed

if TYPE_CHECKING:
    from llmx.artifact import Artifact
    from llmx.config import ExportJob


def export(job: ExportJob, *, progress: Progress | None = None) -> Artifact:
    """Export a model as ``job`` says and return the artifact that was written.

    Raises:
        LlmxError: with a remedy; nothing is left under the artifact's final name then.
    """
    stages = Stages(progress or Silent())
    with hushed():
        with stages.stage("start"):
            # The stack takes seconds to import, and talks while it does.
            from llmx.lower.pipeline import run
        return run(job, stages)
