"""From the filled eager model to a program file, through ExecuTorch's exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.config import ExportJob
from llmx.errors import LoweringError
from llmx.hookspecs import BackendSpec
from llmx.lower.build import Blueprint
from llmx.lower.layers import lower_layers
from llmx.lower.program import finish
from llmx.lower.record import RECORD_NAME
from llmx.lower.shared_data import store_once
from llmx.progress import Stages
from llmx.report.delegation import Delegation, count_delegation


def lower_to_file(
    blueprint: Blueprint,
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    stages: Stages,
    path: Path,
) -> Delegation:
    """Lower the filled model and write the program to ``path``, and what is asked for beside it.

    Raises:
        LoweringError: the model cannot be lowered, or the backend took no part of it.
    """
    edge = lower_layers(blueprint.model, job, backend, constant_methods, stages)
    delegation = count_delegation(edge.exported_program().graph_module)
    if backend.partitioners(job=job):
        _require_delegation(delegation, job)
    with stages.stage("emit program"), path.open("wb") as file:
        program = finish(edge, backend.program_config(job=job))
        program.write_to_file(file)
    if job.debug.generate_etrecord:
        with stages.stage("write ETRecord"):
            program.get_etrecord().save(path.parent / RECORD_NAME)
    if blueprint.shared:
        store_once(path)
    return delegation


def _require_delegation(delegation: Delegation, job: ExportJob) -> None:
    if delegation.subgraphs == 0:
        raise LoweringError(
            f"{job.backend.name} took over no part of the model",
            remedy=f"see `llmx backends {job.backend.name}` for options, or use --backend none",
        )
