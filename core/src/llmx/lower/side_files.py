"""What an export may leave beside the program for people who look inside."""

from __future__ import annotations

from llmx.config import ExportJob


def wants_side_files(job: ExportJob) -> bool:
    """Whether the job asks for files that only lowering can make."""
    return job.debug.generate_etrecord
