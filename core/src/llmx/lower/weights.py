"""The program file: filled from a kept skeleton where there is one, else lowered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen
from torch import nn

from llmx.cache import Store
from llmx.cache.codes import CalibratedCodes, remembered
from llmx.cache.keys import calibration_key, skeleton_key, toolchain
from llmx.config import ExportJob
from llmx.config.data_files import has_data_files
from llmx.lower.build import Blueprint, fill, methods_of, variants
from llmx.lower.calibrate import calibration_of
from llmx.lower.captured import write_captured
from llmx.lower.forecast import GIGA, MemoryRule, forecast
from llmx.lower.pt2e import with_graph_quantized
from llmx.model.params import DecoderParams
from llmx.plugins import Plugins
from llmx.progress import Stages
from llmx.quantize.account import WeightRecord, import_notes
from llmx.quantize.calibrated import Calibration
from llmx.quantize.codes import Rounding
from llmx.quantize.rounding import largest_value, rounding_for_linears
from llmx.skeleton.extract import write_skeleton
from llmx.skeleton.pieces import DelegateData
from llmx.skeleton.skeleton import Filling, NoSkeletonError, OtherStructureError, Skeleton
from llmx.spool import Spool

SKELETONS = "skeletons"
NOT_LOWERED: Mapping[str, Any] = {"delegation": None, "memory": None, "lifetimes": []}


@frozen
class Written:
    """What is known about a program that was written.

    ``blueprint`` has the model that the program computes; ``facts`` are ``delegation`` and
    ``memory`` as in ``llmx.json``, and the ``lifetimes`` of the memory plan's tensors;
    ``from_skeleton`` tells that it was not lowered anew; ``predicted_peak`` is the memory in bytes
    that was expected before the work.
    """

    blueprint: Blueprint
    records: list[WeightRecord]
    facts: Mapping[str, Any]
    from_skeleton: bool
    predicted_peak: int


def write_program(
    blueprint: Blueprint,
    job: ExportJob,
    params: DecoderParams,
    tokenizer: Path | None,
    constant_methods: Mapping[str, Any],
    identity: Mapping[str, Any],
    plugins: Plugins,
    store: Store,
    memory: MemoryRule,
    spool: Spool,
    stages: Stages,
    path: Path,
) -> Written:
    """Read and quantize the weights, and write the program that has them to ``path``.

    ``identity`` tells the weights and the tokenizer from others; ``spool`` is where weights wait.

    Raises:
        CheckpointError: weights cannot be read.
        MemoryShortageError: ``memory`` refuses to begin.
        LoweringError: the model cannot be lowered.
    """
    expected = forecast(blueprint, job)
    stages.display.note(f"expected peak memory: {expected.peak / GIGA:.1f} GB")
    memory(expected)
    ranks = {f"{name}.adapter": each.up.shape[1] for name, each in blueprint.beside.items()}
    key = skeleton_key(job, params, constant_methods, plugins, {**blueprint.schemes, **ranks})
    rounding = rounding_for_linears(job.quantization)
    if rounding is not largest_value:
        rounding = remembered(rounding, rounding.__name__, store, toolchain(plugins))
    calibration = _calibration(blueprint, job, params, tokenizer, identity, plugins, store, stages)
    with ThreadPoolExecutor(1) as beside:
        if store.find(SKELETONS, key) is None:
            # The exporter takes seconds to import, most of which rounding does not notice.
            beside.submit(import_module, "llmx.lower.emit")
        records = _load(blueprint, rounding, calibration, spool, stages)
    blueprint, records = with_graph_quantized(
        job, blueprint, records, plugins.backend, tokenizer, stages
    )
    further = variants(blueprint)
    # What methods share, or programs, must be grouped alike in all.
    shared = bool(further) or job.export.foundation_weights_file is not None
    lowered = blueprint.model if shared else blueprint.ops.regroup(blueprint.model)
    spool.hold(blueprint.model, lowered, *further.values())
    modules = weight_modules(lowered, {each.name for each in records})
    kept = store.find(SKELETONS, key)
    if kept is not None:
        with stages.stage("put into kept program"):
            skeleton = _filled(kept, modules, _delegate_data(plugins), path)
        if skeleton is not None:
            for note in skeleton.facts["notes"]:
                stages.note(note)
            return Written(blueprint, records, skeleton.facts, True, expected.peak)
    if job.export.export_only:
        write_captured(lowered, job, stages, path)
        return Written(blueprint, records, NOT_LOWERED, False, expected.peak)
    said = len(stages.notes)
    with stages.stage("prepare lowering"):
        from llmx.lower.emit import lower_to_file
    facts = lower_to_file(
        methods_of(job, lowered, further),
        job,
        plugins.backend,
        constant_methods,
        blueprint.shared,
        spool,
        stages,
        path,
    )
    several = len(job.multimethod.methods) > 1
    if (
        job.quantization.pt2e_quantize is not None
        or further
        or several
        or has_data_files(job.export)
    ):
        # Its integers come of graph and texts, not of one weight after the other; and kept
        # programs have one method and hold all their weights.
        return Written(blueprint, records, facts, False, expected.peak)
    facts = {**facts, "notes": stages.notes[said:]}
    store.forget(SKELETONS, key)
    try:
        with stages.stage("keep for other weights"), store.keep(SKELETONS, key) as folder:
            if folder is not None:
                write_skeleton(path, modules, _delegate_data(plugins), facts, folder)
    except NoSkeletonError as reason:
        stages.note(f"other weights will have to be lowered again: {reason.message}")
    return Written(blueprint, records, facts, False, expected.peak)


def weight_modules(model: nn.Module, accounted: Collection[str]) -> list[tuple[str, nn.Module]]:
    """The modules of a lowered model that hold its weights, by name.

    These are the ``accounted`` ones, each with all that is in it, and what took the place of some.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        parts = name.split(".")
        if any(".".join(parts[:count]) in found for count in range(1, len(parts))):
            continue
        if name in accounted or next(module.parameters(recurse=False), None) is not None:
            found[name] = module
    return list(found.items())


def _calibration(
    blueprint: Blueprint,
    job: ExportJob,
    params: DecoderParams,
    tokenizer: Path | None,
    identity: Mapping[str, Any],
    plugins: Plugins,
    store: Store,
    stages: Stages,
) -> Calibration | None:
    """What the weights are rounded for, if for texts; it remembers what came of them."""
    vocabulary = blueprint.vocabulary.readable
    calibration = calibration_of(job, tokenizer, vocabulary=vocabulary, stages=stages)
    if calibration is None:
        return None
    texts = [each.tolist() for each in calibration.texts]
    key = calibration_key(job, params, plugins, blueprint.schemes, identity, texts)
    return attrs.evolve(calibration, results=CalibratedCodes(store, key))


def _load(
    blueprint: Blueprint,
    rounding: Rounding,
    calibration: Calibration | None,
    spool: Spool,
    stages: Stages,
) -> list[WeightRecord]:
    with stages.stage("load and quantize"):
        records = []
        parts = {name for name, _ in blueprint.model.named_modules()}
        for record in fill(blueprint, stages, rounding, calibration):
            records.append(record)
            # Adapters have records of their own; they are few and wait for the others.
            if record.name in parts:
                spool.hold(blueprint.model.get_submodule(record.name))
        for note in import_notes(records):
            stages.note(note)
    return records


def _filled(
    kept: Path, modules: Iterable[tuple[str, nn.Module]], data: DelegateData, path: Path
) -> Skeleton | None:
    """The kept skeleton, once its program has these weights; ``None`` if they do not fit."""
    try:
        skeleton = Skeleton.read(kept)
        with Filling(skeleton, path) as filling:
            for name, module in modules:
                filling.put(name, module, data)
    except OtherStructureError:
        return None
    return skeleton if filling.fits() else None


def _delegate_data(plugins: Plugins) -> DelegateData:
    return lambda module: plugins.backend.delegate_data(module=module)
