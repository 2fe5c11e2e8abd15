"""One export from beginning to end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
from executorch.exir import ExecutorchProgramManager

from llmx.artifact import Artifact, check_output, staged, write_manifest
from llmx.checkpoint import Checkpoint, source_hashes
from llmx.config import ExportJob
from llmx.errors import LoweringError
from llmx.lower.build import Blueprint, draw, fill
from llmx.lower.bundle import write_tokenizer
from llmx.lower.calibrate import calibration_of
from llmx.lower.context import context_notes, resolve_lengths
from llmx.lower.layers import lower_layers
from llmx.lower.methods import constant_methods
from llmx.lower.program import finish
from llmx.lower.shared_data import store_once
from llmx.lower.source import Source, open_source
from llmx.model.kv_cache import cache_bytes
from llmx.model.params import DecoderParams
from llmx.plugins import Plugins, load
from llmx.progress import Stages
from llmx.quantize.account import WeightRecord, import_notes
from llmx.quantize.rounding import rounding_for_linears
from llmx.report.delegation import Delegation, count_delegation
from llmx.report.manifest import (
    describe_model,
    describe_sampling,
    describe_source,
    describe_special_tokens,
    describe_stages,
    describe_weights,
    versions,
)
from llmx.run.parity import Check, check_parity, parity_bound

DEFAULT_PROGRAM_NAME = "model.pte"


def output_folder(job: ExportJob) -> Path:
    """Where the artifact goes: ``export.output_dir``, or a folder named after the job."""
    if job.export.output_dir is not None:
        return Path(job.export.output_dir)
    weights = job.quantization.qmode or job.model.dtype_override
    words = (job.base.model_class, job.base.size, job.backend.name, weights)
    return Path("-".join(word for word in words if word))


def run(job: ExportJob, stages: Stages) -> Artifact:
    """The stages of ``llmx.export``, in their order."""
    plugins = load(job.base.model_class, job.backend.name)
    family, backend = plugins.family, plugins.backend
    backend.check(job=job)
    folder = output_folder(job)
    check_output(folder)

    with stages.stage("open checkpoint"):
        source = open_source(job.base, family, stages.display)
        tokens = family.token_ids(checkpoint=source.checkpoint)
        job = resolve_lengths(job, source.params)
        if source.adapter is not None:
            changed = len(source.adapter.tensors)
            stages.note(f"{source.adapter.source} is merged into {changed} of the model's weights")
        for note in context_notes(job, source.params):
            stages.note(note)
    with stages.stage("build model"):
        blueprint = draw(job, source, plugins)
        for note in blueprint.notes:
            stages.note(note)
    with ThreadPoolExecutor(1) as background, staged(folder) as scratch:
        hashes = background.submit(_hashes, source)
        with stages.stage("tokenizer"):
            tokenizer = write_tokenizer(source.checkpoint, job.base, family, scratch)
        with stages.stage("load and quantize"):
            rounding = rounding_for_linears(job.quantization)
            calibration = calibration_of(
                job, tokenizer, vocab_size=source.params.vocab_size, stages=stages
            )
            records = fill(blueprint, stages, rounding, calibration)
            for note in import_notes(records):
                stages.note(note)
        methods = constant_methods(job, source.params, tokens)
        edge = lower_layers(blueprint.model, job, backend, methods, stages)
        delegation = count_delegation(edge.exported_program().graph_module)
        if backend.partitioners(job=job):
            _require_delegation(delegation, job)
        with stages.stage("emit program"):
            path = scratch / (job.export.output_name or DEFAULT_PROGRAM_NAME)
            emitted = finish(edge, backend.program_config(job=job))
            program = _write_program(emitted, path, shared=bool(blueprint.shared))
        with stages.stage("check"):
            checks = _check(path, blueprint, records, source.params, job, plugins, stages)
        manifest = {
            "family": job.base.model_class,
            "size": job.base.size,
            "versions": versions(plugins),
            "config": job.to_dict(),
            "source": describe_source(source.checkpoint, source.adapter, hashes.result()),
            "model": describe_model(source.params, tokens, cache_bytes(blueprint.model)),
            "program": program,
            "tokenizer": None if tokenizer is None else tokenizer.name,
            "chat_template": _chat_template(source.checkpoint, plugins),
            "special_tokens": describe_special_tokens(source.checkpoint),
            "sampling": describe_sampling(source.checkpoint),
            "weights": describe_weights(records),
            "delegation": attrs.asdict(delegation),
            "checks": [{**attrs.asdict(each), "passed": each.passed} for each in checks],
            "stages": describe_stages(stages.records),
            "notes": list(stages.notes),
        }
        write_manifest(scratch, manifest)
    return Artifact.open(folder)


def _require_delegation(delegation: Delegation, job: ExportJob) -> None:
    if delegation.subgraphs == 0:
        raise LoweringError(
            f"{job.backend.name} took over no part of the model",
            remedy=f"see `llmx backends {job.backend.name}` for options, or use --backend none",
        )


def _write_program(
    program: ExecutorchProgramManager, path: Path, *, shared: bool
) -> Mapping[str, Any]:
    with path.open("wb") as file:
        program.write_to_file(file)
    if shared:
        store_once(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _check(
    program: Path,
    blueprint: Blueprint,
    records: Sequence[WeightRecord],
    params: DecoderParams,
    job: ExportJob,
    plugins: Plugins,
    stages: Stages,
) -> list[Check]:
    """Compare the program with the eager model, where this machine can run it."""
    reason = plugins.backend.runtime()
    if reason is not None:
        stages.note(f"not checked against the eager model: {reason}")
        return []
    assert job.export.max_seq_length is not None
    checks = check_parity(
        program,
        blueprint.model,
        bound=parity_bound(
            blueprint.dtype,
            int8_activations=blueprint.int8_activations
            or any(each.kept and each.kind == "linear" for each in records),
        ),
        kv_cache=job.model.use_kv_cache,
        dynamic=job.model.enable_dynamic_shape,
        max_seq_length=job.export.max_seq_length,
        vocab_size=params.vocab_size,
    )
    failed = [each for each in checks if not each.passed]
    if failed:
        worst = max(failed, key=lambda each: each.figure)
        raise LoweringError(
            f"the program does not compute what the model computes: {worst.name} fails, "
            f"{worst.figure:.3g} exceeds {worst.bound:.3g}",
            remedy="nothing was written; please report this with the output of llmx config",
        )
    return checks


def _hashes(source: Source) -> Mapping[str, str]:
    opened = (source.checkpoint, source.adapter)
    return {
        name: digest
        for each in opened
        if each is not None
        for name, digest in source_hashes(each).items()
    }


def _chat_template(checkpoint: Checkpoint | None, plugins: Plugins) -> str | None:
    return None if checkpoint is None else plugins.family.chat_template(checkpoint=checkpoint)
