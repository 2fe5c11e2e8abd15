"""What an export may leave beside the program for people who look inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmx.cache import NoStore, Store
from llmx.config import ExportJob
from llmx.progress import Stages

if TYPE_CHECKING:
    from executorch.exir import ExecutorchProgramManager

    from llmx.report.memory_plan import MemoryPlan

RECORD_NAME = "etrecord.bin"
TRACE_NAME = "memory_profile.json"


def store_for(job: ExportJob, store: Store) -> Store:
    """``store``, or one that keeps nothing if the job asks for what no kept program can give."""
    debug = job.debug
    asked = debug.generate_etrecord or debug.profile_memory or job.export.export_only
    return NoStore() if asked else store


def write_side_files(
    job: ExportJob,
    program: ExecutorchProgramManager,
    memory: MemoryPlan,
    stages: Stages,
    folder: Path,
) -> None:
    """Write those that the job asks for."""
    if job.debug.generate_etrecord:
        with stages.stage("write ETRecord"):
            program.get_etrecord().save(folder / RECORD_NAME)
    if job.debug.profile_memory:
        from llmx.report.memory_trace import write_memory_trace

        write_memory_trace(memory, folder / TRACE_NAME)
