"""From the filled eager model to a program file, through ExecuTorch's exporter."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import nn

from llmx.config import ExportJob
from llmx.config.data_files import has_data_files
from llmx.errors import LoweringError
from llmx.hookspecs import BackendSpec
from llmx.lower.data_files import moved_out, require_files
from llmx.lower.layers import lower_layers, lower_whole
from llmx.lower.leftovers import let_go_of
from llmx.lower.load_order import load_largest_first
from llmx.lower.program import finish_with_plan, joined, with_shared_state
from llmx.lower.shared_data import store_once
from llmx.lower.side_files import write_side_files
from llmx.memory import give_back
from llmx.progress import Stages
from llmx.pte.data_files import seal
from llmx.report.delegation import Delegation, count_delegation
from llmx.report.manifest import describe_lifetimes, describe_memory
from llmx.spool import Spool


def lower_to_file(
    models: Mapping[str, nn.Module],
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    shared: Mapping[str, str],
    spool: Spool,
    stages: Stages,
    path: Path,
) -> dict[str, Any]:
    """Lower the filled models, a method each, to a program at ``path``, with what goes beside it.

    ``shared`` names tables that two modules have; they are stored once. Weights wait in ``spool``.
    What is known about the program is returned: ``delegation`` and ``memory`` as in ``llmx.json``,
    and ``lifetimes``, all of ``forward``.

    Raises:
        LoweringError: the model cannot be lowered, or the backend took no part of it.
    """
    facts = _write(models, job, backend, constant_methods, spool, stages, path)
    # The graphs refer to each other in circles, and to payloads.
    gc.collect()
    give_back()
    if shared:
        store_once(path)
    load_largest_first(path)
    return facts


def _write(
    models: Mapping[str, nn.Module],
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    spool: Spool,
    stages: Stages,
    path: Path,
) -> dict[str, Any]:
    lengths = {each.method_name: each.export_seq_len or 1 for each in job.multimethod.methods}
    lengths = {name: lengths.get(name, 1) for name in models}
    if len(models) > 1 and backend.joins_methods(job=job):
        edge = lower_whole(models, lengths, job, backend, constant_methods, stages)
    else:
        edge = joined(
            {
                name: lower_layers(
                    model, job, backend, constant_methods, spool, stages, lengths[name]
                )
                for name, model in models.items()
            }
        )
    delegation = count_delegation(edge.exported_program().graph_module)
    if backend.partitioners(job=job):
        for name in models:
            _require_delegation(count_delegation(edge.exported_program(name).graph_module), job)
    with stages.stage("emit program"):
        config = backend.program_config(job=job)
        if job.multimethod.share_mutable_buffers:
            config = with_shared_state(config)
        if has_data_files(job.export):
            edge, bound = moved_out(
                edge, models, job.export, lambda module: backend.delegate_data(module=module)
            )
            config = bound(config)
        program, memory = finish_with_plan(edge, config)
        with path.open("wb") as file:
            program.write_to_file(file)
        if has_data_files(job.export):
            program.write_tensor_data_to_file(path.parent)
            require_files(job.export, path.parent, job.backend.name or "the program")
            seal(path)
    write_side_files(job, program, memory, stages, path.parent)
    let_go_of(edge.exported_program(name) for name in models)
    return {
        "delegation": attrs.asdict(delegation),
        "memory": describe_memory(memory),
        "lifetimes": describe_lifetimes(memory),
    }


def _require_delegation(delegation: Delegation, job: ExportJob) -> None:
    if delegation.subgraphs == 0:
        raise LoweringError(
            f"{job.backend.name} took over no part of the model",
            remedy=f"see `llmx backends {job.backend.name}` for options, or use --backend none",
        )
