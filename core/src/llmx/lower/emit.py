"""From the filled eager model to a program file, through ExecuTorch's exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from llmx.config import ExportJob
from llmx.errors import LoweringError
from llmx.hookspecs import BackendSpec
from llmx.lower.layers import lower_layers
from llmx.lower.program import finish
from llmx.lower.record import RECORD_NAME
from llmx.lower.shared_data import store_once
from llmx.progress import Stages
from llmx.report.delegation import Delegation, count_delegation


def lower_to_file(
    model: nn.Module,
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    shared: Mapping[str, str],
    stages: Stages,
    path: Path,
) -> Delegation:
    """Lower the filled model and write the program to ``path``, and what is asked for beside it.

    ``shared`` names tables that two modules have; they are stored once.

    Raises:
        LoweringError: the model cannot be lowered, or the backend took no part of it.
    """
    edge = lower_layers(model, job, backend, constant_methods, stages)
    delegation = count_delegation(edge.exported_program().graph_module)
    if backend.partitioners(job=job):
        _require_delegation(delegation, job)
    with stages.stage("emit program"), path.open("wb") as file:
        program = finish(edge, backend.program_config(job=job))
        program.write_to_file(file)
    if job.debug.generate_etrecord:
        with stages.stage("write ETRecord"):
            program.get_etrecord().save(path.parent / RECORD_NAME)
    if shared:
        store_once(path)
    return delegation


def _require_delegation(delegation: Delegation, job: ExportJob) -> None:
    if delegation.subgraphs == 0:
        raise LoweringError(
            f"{job.backend.name} took over no part of the model",
            remedy=f"see `llmx backends {job.backend.name}` for options, or use --backend none",
        )
