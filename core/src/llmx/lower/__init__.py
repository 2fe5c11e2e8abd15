"""From the eager model to a program: ``torch.export``, edge dialect, delegation, emission."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmx.memory import rare_collections
from llmx.progress import Progress, Silent, Stages
from llmx.quiet import hushed

if TYPE_CHECKING:
    from llmx.artifact import Artifact
    from llmx.cache import Store
    from llmx.config import ExportJob
    from llmx.lower.forecast import MemoryRule


def export(
    job: ExportJob,
    *,
    progress: Progress | None = None,
    store: Store | None = None,
    memory: MemoryRule | None = None,
) -> Artifact:
    """Export a model as ``job`` says and return the artifact that was written.

    Args:
        store: where results of earlier exports are found and kept, by default the user's cache;
            ``llmx.cache.NoStore()`` does all work anew.
        memory: is told the expected peak before the work begins, and may refuse it; by default
            ``llmx.lower.forecast.require_memory`` refuses what exceeds the memory that there is.

    Raises:
        LlmxError: with a remedy; nothing is left under the artifact's final name then.
    """
    stages = Stages(progress or Silent())
    with hushed(), rare_collections():
        with stages.stage("start"):
            # The stack takes seconds to import, and talks while it does.
            from llmx.cache import default_store
            from llmx.lower.forecast import require_memory
            from llmx.lower.pipeline import run
            from llmx.report.flame import profiled
        path = job.debug.profile_path
        with profiled(None if path is None else Path(path), stages):
            return run(job, stages, store or default_store(), memory or require_memory)
