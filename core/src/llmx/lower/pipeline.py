"""One export from beginning to end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from llmx.artifact import (
    Artifact,
    check_output,
    describe_files,
    staged,
    write_card,
    write_manifest,
)
from llmx.cache import Store
from llmx.cache.keys import program_key
from llmx.cache.programs import copy_program, keep_program
from llmx.checkpoint import Checkpoint
from llmx.config import ExportJob
from llmx.config.data_files import data_names, has_data_files
from llmx.config.methods import FORWARD, prefill_of
from llmx.detect import described
from llmx.errors import LoweringError
from llmx.lower.build import draw, methods_of, variants
from llmx.lower.bundle import published_tokenizer, write_tokenizer
from llmx.lower.context import context_notes, resolve_lengths
from llmx.lower.forecast import MemoryRule
from llmx.lower.method import resolve_method
from llmx.lower.methods import constant_methods
from llmx.lower.mixed import with_bits_spent
from llmx.lower.prequantized import resolve_prequantized
from llmx.lower.pt2e import check_quantizer
from llmx.lower.side_files import store_for
from llmx.lower.source import (
    Source,
    file_hashes,
    open_source,
    require_adapter,
    with_adapter_apart,
    with_methods,
)
from llmx.lower.tables import resolve_tables
from llmx.lower.weights import Written, write_program
from llmx.memory import give_back
from llmx.model.kv_cache import cache_bytes
from llmx.model.params import DecoderParams
from llmx.native import load_operators
from llmx.plugins import Plugins, load
from llmx.progress import Stages
from llmx.report.manifest import (
    describe_model,
    describe_sampling,
    describe_source,
    describe_special_tokens,
    describe_stages,
    describe_weights,
    versions,
)
from llmx.report.page import write_page
from llmx.run.parity import check_parity, check_prefill, parity_bound
from llmx.run.tokenizer import load_tokenizer
from llmx.run.unlocked import without_locked_pages
from llmx.spool import Spool, spool_beside
from llmx.verify.finding import Finding
from llmx.verify.quick import check_quickly
from llmx.verify.tokens import check_tokenizer

DEFAULT_PROGRAM_NAME = "model.pte"
DEFAULT_GRAPH_NAME = "model.pt2"


def output_folder(job: ExportJob) -> Path:
    """Where the artifact goes: ``export.output_dir``, or a folder named after the job."""
    if job.export.output_dir is not None:
        return Path(job.export.output_dir)
    weights = job.quantization.qmode or job.model.dtype_override
    words = (job.base.model_class, job.base.size, job.backend.name, weights)
    return Path("-".join(word for word in words if word))


def run(
    job: ExportJob,
    stages: Stages,
    store: Store,
    memory: MemoryRule,
    accept: Callable[[DecoderParams], None] = lambda params: None,
) -> Artifact:
    """The stages of ``llmx.export``, in their order.

    ``accept`` raises if the checkpoint's parameters are not those that are wanted.
    """
    plugins = load(job.base.model_class, job.backend.name)
    family, backend = plugins.family, plugins.backend
    backend.check(job=job)
    check_quantizer(job, backend)
    folder = output_folder(job)
    check_output(folder)
    load_operators(job.export.so_library)
    store = store_for(job, store)

    with stages.stage("open checkpoint"):
        source = open_source(job.base, family, stages.display)
        source = with_methods(source, job.multimethod.methods)
        if has_data_files(job.export):
            source = with_adapter_apart(source)
            require_adapter(job.export, source)
        accept(source.params)
        tokens = family.token_ids(checkpoint=source.checkpoint)
        job = resolve_lengths(job, source.params)
        job = resolve_prequantized(job, source.checkpoint)
        job = resolve_tables(job, source.params, tokens)
        # Now of what the checkpoint has decided, too.
        backend.check(job=job)
        for note in _source_notes(source, job):
            stages.note(note)
    with stages.stage("build model"):
        blueprint = draw(job, source, plugins)
        for note in blueprint.notes:
            stages.note(note)
    with (
        ThreadPoolExecutor(1) as background,
        staged(folder) as scratch,
        spool_beside(scratch) as spool,
    ):
        hashes = background.submit(file_hashes, source)
        with stages.stage("tokenizer"):
            tokenizer = write_tokenizer(source.checkpoint, job.base, family, scratch)
            words = _check_tokenizer(tokenizer, job, source, plugins)
            for each in words:
                if each.passed is False:
                    stages.note(f"{each.name} fails: {each.figure:.0f} {each.detail}")
        job = resolve_method(job, blueprint, tokenizer, stages)
        path = scratch / _program_name(job)
        methods = constant_methods(job, source.params, tokens)
        said = len(stages.notes)
        with stages.stage("look for the same export"):
            identity = source.identity(hashes.result(), tokenizer)
            key = program_key(job, source.params, methods, plugins, identity)
            facts = copy_program(store, key, path, data_names(job.export))
        if facts is None:
            blueprint = with_bits_spent(job, blueprint, source, tokenizer, memory, stages)
            with spool.letting_go_meanwhile():
                written = write_program(
                    blueprint,
                    job,
                    source.params,
                    tokenizer,
                    methods,
                    identity,
                    plugins,
                    store,
                    memory,
                    spool,
                    stages,
                    path,
                )
            # What calls had in hand, of graphs and weights, refers to each other in circles.
            gc.collect()
            with stages.stage("check"), without_locked_pages():
                give_back()
                checks = _check(path, written, job, plugins, spool, stages)
            facts = {
                "weights": describe_weights(written.records),
                "delegation": written.facts["delegation"],
                "memory": written.facts["memory"],
                "lifetimes": written.facts["lifetimes"],
                "checks": [each.to_dict() for each in checks],
                "notes": stages.notes[said:],
            }
            keep_program(store, key, path, data_names(job.export), facts)
            reused = "skeleton" if written.from_skeleton else None
            predicted = written.predicted_peak
        else:
            reused, predicted = "program", None
            for note in facts["notes"]:
                stages.note(note)
        checked = [*facts["checks"], *(each.to_dict() for each in words)]
        passed = all(each["passed"] for each in checked)
        files = describe_files(scratch)
        manifest = {
            "family": job.base.model_class,
            "size": job.base.size,
            "versions": versions(plugins),
            "config": job.to_dict(),
            "source": describe_source(
                source.checkpoint,
                source.adapter or source.methods.get(FORWARD),
                hashes.result(),
            ),
            "model": describe_model(source.params, tokens, cache_bytes(blueprint.model)),
            "program": {
                "file": path.name,
                **files[path.name],
                "data_files": data_names(job.export),
            },
            "tokenizer": None if tokenizer is None else tokenizer.name,
            "files": files,
            "chat_template": _chat_template(source.checkpoint, plugins),
            "special_tokens": describe_special_tokens(source.checkpoint),
            "sampling": describe_sampling(source.checkpoint),
            "weights": facts["weights"],
            "delegation": facts["delegation"],
            "memory": facts["memory"],
            "checks": checked,
            "verification": None if passed else {"passed": False, "checks": checked},
            "reused": reused,
            "predicted_peak_bytes": predicted,
            "stages": describe_stages(stages.records),
            "notes": list(stages.notes),
        }
        write_manifest(scratch, manifest)
        write_card(scratch, manifest)
        if job.debug.report:
            write_page(scratch, manifest, facts["lifetimes"])
    store.trim()
    return Artifact.open(folder)


def _source_notes(source: Source, job: ExportJob) -> Iterator[str]:
    """What people should know of the weights before they are read."""
    if source.adapter is not None:
        changed = len(source.adapter.tensors)
        yield f"{source.adapter.source} is merged into {changed} of the model's weights"
    if source.beside is not None:
        yield f"the adapter of {len(source.beside.tensors)} weights stays beside them"
    for method, lora in source.methods.items():
        yield f"method {method}: {lora.source} beside {len(lora.tensors)} of the model's weights"
    if source.stands_in:
        assert source.checkpoint is not None
        yield (
            f"{source.checkpoint.source} is {described(source.checkpoint.config)}: "
            f"{job.base.model_class} stands in for a family that was made for it"
        )
    yield from context_notes(job, source.params)


def _program_name(job: ExportJob) -> str:
    usual = DEFAULT_GRAPH_NAME if job.export.export_only else DEFAULT_PROGRAM_NAME
    return job.export.output_name or usual


def _check(
    program: Path,
    written: Written,
    job: ExportJob,
    plugins: Plugins,
    spool: Spool,
    stages: Stages,
) -> list[Finding]:
    """Compare the program with the eager model and itself, where this machine can run it."""
    if job.export.export_only:
        return []
    reason = plugins.backend.runtime()
    if reason is not None:
        stages.note(f"not checked against the eager model: {reason}")
        return []
    assert job.export.max_seq_length is not None
    blueprint = written.blueprint
    bound = parity_bound(
        blueprint.ops.arithmetic or blueprint.dtype,
        int8_activations=blueprint.int8_activations
        or any(each.kept and each.kind == "linear" for each in written.records),
    )
    models = methods_of(job, blueprint.model, variants(blueprint))
    prefill = prefill_of(job.multimethod.methods)
    checks = [
        check
        for method, model in models.items()
        if prefill is None or method != prefill.method_name
        for check in check_parity(
            program,
            model,
            spool,
            bound=bound,
            kv_cache=job.model.use_kv_cache,
            dynamic=job.model.enable_dynamic_shape,
            max_seq_length=job.export.max_seq_length,
            vocabulary=blueprint.vocabulary.readable,
            method=method,
        )
    ]
    if prefill is not None:
        checks += check_prefill(
            program,
            models[FORWARD],
            spool,
            bound=bound,
            method=prefill.method_name,
            length=prefill.export_seq_len or 1,
            vocabulary=blueprint.vocabulary.readable,
        )
    _require(checks)
    further = check_quickly(program, bound=bound)
    _require(further)
    return [*checks, *further]


def _check_tokenizer(
    written: Path | None, job: ExportJob, source: Source, plugins: Plugins
) -> list[Finding]:
    """Compare the runtime's tokenizer with the one that was published, before the long work."""
    if written is None:
        return []
    runtime = load_tokenizer(written)
    with TemporaryDirectory(prefix="llmx-") as folder:
        published = published_tokenizer(source.checkpoint, job.base, plugins.family, Path(folder))
        assert published is not None
        found = check_tokenizer(runtime, published)
    return [] if found.passed is None else [found]


def _require(checks: Sequence[Finding]) -> None:
    failed = [each for each in checks if each.passed is False]
    if failed:
        worst = max(failed, key=lambda each: each.figure or 0)
        raise LoweringError(
            f"the program does not compute what the model computes: {worst.name} fails, "
            f"{worst.figure or 0:.3g} exceeds {worst.bound or 0:.3g}",
            remedy="nothing was written; please report this with the output of llmx config",
        )


def _chat_template(checkpoint: Checkpoint | None, plugins: Plugins) -> str | None:
    return None if checkpoint is None else plugins.family.chat_template(checkpoint=checkpoint)
