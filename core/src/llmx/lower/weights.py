"""The program file: filled from a kept skeleton where there is one, else lowered."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.cache import Store
from llmx.cache.codes import remembered
from llmx.cache.keys import skeleton_key, toolchain
from llmx.config import ExportJob
from llmx.lower.build import Blueprint, fill
from llmx.lower.calibrate import calibration_of
from llmx.lower.forecast import GIGA, MemoryRule, forecast
from llmx.lower.pt2e import with_graph_quantized
from llmx.model.params import DecoderParams
from llmx.plugins import Plugins
from llmx.progress import Stages
from llmx.quantize.account import WeightRecord, import_notes
from llmx.quantize.calibrated import Calibration
from llmx.quantize.codes import Rounding
from llmx.quantize.rounding import half_quadratic, rounding_for_linears
from llmx.skeleton.extract import write_skeleton
from llmx.skeleton.pieces import DelegateData
from llmx.skeleton.skeleton import Filling, NoSkeletonError, OtherStructureError, Skeleton

SKELETONS = "skeletons"


@frozen
class Written:
    """What is known about a program that was written.

    ``blueprint`` has the model that the program computes; ``delegation`` is as in ``llmx.json``;
    ``from_skeleton`` tells that it was not lowered anew; ``predicted_peak`` is the memory in bytes
    that was expected before the work.
    """

    blueprint: Blueprint
    records: list[WeightRecord]
    delegation: Mapping[str, Any]
    from_skeleton: bool
    predicted_peak: int


def write_program(
    blueprint: Blueprint,
    job: ExportJob,
    params: DecoderParams,
    tokenizer: Path | None,
    constant_methods: Mapping[str, Any],
    plugins: Plugins,
    store: Store,
    memory: MemoryRule,
    stages: Stages,
    path: Path,
) -> Written:
    """Read and quantize the weights, and write the program that has them to ``path``.

    Raises:
        CheckpointError: weights cannot be read.
        MemoryShortageError: ``memory`` refuses to begin.
        LoweringError: the model cannot be lowered.
    """
    expected = forecast(blueprint)
    stages.display.note(f"expected peak memory: {expected.peak / GIGA:.1f} GB")
    memory(expected)
    key = skeleton_key(job, params, constant_methods, plugins, blueprint.schemes)
    rounding = rounding_for_linears(job.quantization)
    if rounding is half_quadratic:
        rounding = remembered(rounding, "half-quadratic", store, toolchain(plugins))
    calibration = calibration_of(
        job, tokenizer, vocabulary=blueprint.vocabulary.readable, stages=stages
    )
    kept = store.find(SKELETONS, key)
    records, skeleton = _load(blueprint, rounding, calibration, plugins, kept, stages, path)
    if skeleton is not None:
        for note in skeleton.facts["notes"]:
            stages.note(note)
        return Written(blueprint, records, skeleton.facts["delegation"], True, expected.peak)
    said = len(stages.notes)
    blueprint, records = with_graph_quantized(
        job, blueprint, records, plugins.backend, tokenizer, stages
    )
    with stages.stage("prepare lowering"):
        from llmx.lower.emit import lower_to_file
    delegation = attrs.asdict(
        lower_to_file(blueprint, job, plugins.backend, constant_methods, stages, path)
    )
    if job.quantization.pt2e_quantize is not None:
        # Its integers come of graph and texts, not of one weight after the other.
        return Written(blueprint, records, delegation, False, expected.peak)
    facts = {"delegation": delegation, "notes": stages.notes[said:]}
    modules = [(each.name, blueprint.model.get_submodule(each.name)) for each in records]
    store.forget(SKELETONS, key)
    try:
        with stages.stage("keep for other weights"), store.keep(SKELETONS, key) as folder:
            if folder is not None:
                write_skeleton(path, modules, _delegate_data(plugins), facts, folder)
    except NoSkeletonError as reason:
        stages.note(f"other weights will have to be lowered again: {reason.message}")
    return Written(blueprint, records, delegation, False, expected.peak)


def _load(
    blueprint: Blueprint,
    rounding: Rounding,
    calibration: Calibration | None,
    plugins: Plugins,
    kept: Path | None,
    stages: Stages,
    path: Path,
) -> tuple[list[WeightRecord], Skeleton | None]:
    """Fill the model and, as long as the weights fit, the skeleton; it is returned if they do."""
    records: list[WeightRecord] = []
    with ExitStack() as stack, stages.stage("load and quantize"):
        filling = None if kept is None else _begin(kept, path, stack)
        for record in fill(blueprint, stages, rounding, calibration):
            records.append(record)
            if filling is not None and not _put(filling, record.name, blueprint, plugins):
                filling = None
        for note in import_notes(records):
            stages.note(note)
        if filling is None or not filling.fits():
            return records, None
        return records, filling.skeleton


def _begin(kept: Path, path: Path, stack: ExitStack) -> Filling | None:
    try:
        return stack.enter_context(Filling(Skeleton.read(kept), path))
    except OtherStructureError:
        return None


def _put(filling: Filling, name: str, blueprint: Blueprint, plugins: Plugins) -> bool:
    try:
        filling.put(name, blueprint.model.get_submodule(name), _delegate_data(plugins))
    except OtherStructureError:
        return False
    return True


def _delegate_data(plugins: Plugins) -> DelegateData:
    return lambda module: plugins.backend.delegate_data(module=module)
