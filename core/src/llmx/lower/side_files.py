"""What an export may leave beside the program for people who look inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmx.config import ExportJob
from llmx.progress import Stages

if TYPE_CHECKING:
    from executorch.exir import ExecutorchProgramManager

    from llmx.report.memory_plan import MemoryPlan

RECORD_NAME = "etrecord.bin"
TRACE_NAME = "memory_profile.json"


def wants_side_files(job: ExportJob) -> bool:
    """Whether the job asks for files that no cached program can give."""
    debug = job.debug
    return debug.generate_etrecord or debug.profile_memory or job.export.export_only


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
