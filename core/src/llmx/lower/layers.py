"""Lower a model in work proportional to its kinds of layers, or layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from executorch.exir import EdgeProgramManager
from torch import nn
from torch.fx import GraphModule

from llmx.config import ExportJob
from llmx.config.methods import FORWARD
from llmx.hookspecs import BackendSpec
from llmx.lower.capture import capture, example_inputs
from llmx.lower.program import lower_methods, with_program
from llmx.lower.record import carry_record
from llmx.lower.replicate import replicate
from llmx.lower.template import IrregularError, Template, UnprovenError, template_of
from llmx.progress import Stages
from llmx.report.reasons import partitioners_heard
from llmx.spool import Spool


def lower_layers(
    model: nn.Module,
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    spool: Spool,
    stages: Stages,
    length: int = 1,
) -> EdgeProgramManager:
    """Lower a few layers and repeat them; where that cannot be done, lower all and say why.

    ``length`` is the number of tokens of each call, unless the job leaves that open.

    Raises:
        LoweringError: the model cannot be traced or lowered.
    """
    if job.export.replicate_layers:
        try:
            if isinstance(model, GraphModule):
                raise IrregularError("quantizing the graph made one piece of it")
            template = template_of(model)
            while template is not None:
                try:
                    return _repeat(
                        template, model, job, backend, constant_methods, spool, stages, length
                    )
                except UnprovenError:
                    template = template_of(model, least=len(template.chosen) + 1)
                    if template is None:
                        raise
        except IrregularError as reason:
            stages.note(f"each layer is lowered by itself: {reason}")
    return lower_whole({FORWARD: model}, {FORWARD: length}, job, backend, constant_methods, stages)


def _repeat(
    template: Template,
    model: Any,
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    spool: Spool,
    stages: Stages,
    length: int,
) -> EdgeProgramManager:
    edge = lower_whole(
        {FORWARD: template.model}, {FORWARD: length}, job, backend, constant_methods, stages
    )
    with stages.stage("repeat layers"):
        layers = list(model.layers)
        program = replicate(
            edge.exported_program(),
            template,
            layers,
            lambda module: backend.delegate_data(module=module),
            spool,
        )
        whole = with_program(edge, program)
        carry_record(
            edge, whole, lambda each: replicate(each, template, layers, lambda _: None, spool)
        )
        return whole


def lower_whole(
    models: Mapping[str, nn.Module],
    lengths: Mapping[str, int],
    job: ExportJob,
    backend: BackendSpec,
    constant_methods: Mapping[str, Any],
    stages: Stages,
) -> EdgeProgramManager:
    """Lower models as they are, a method each, at once: what their delegates share is the backend's
    affair.

    ``lengths`` are the tokens of each call, unless the job leaves that open.

    Raises:
        LoweringError: a model cannot be traced or lowered.
    """
    with stages.stage("torch.export"):
        captured = {
            name: capture(model, *_inputs(job, lengths[name])) for name, model in models.items()
        }
    partitioners = backend.partitioners(job=job)
    with stages.stage("lower"), partitioners_heard() as reasons:
        edge = lower_methods(
            captured,
            partitioners,
            {
                name: backend.edge_passes(job=job, program=program)
                for name, program in captured.items()
            },
            constant_methods,
            generate_etrecord=job.debug.generate_etrecord,
        )
    for name in models:
        reasons.annotate(edge.exported_program(name), partitioners)
    return edge


def _inputs(job: ExportJob, length: int) -> Any:
    assert job.export.max_seq_length is not None
    return example_inputs(
        kv_cache=job.model.use_kv_cache,
        dynamic=job.model.enable_dynamic_shape,
        max_seq_length=job.export.max_seq_length,
        fixed=length,
    )
