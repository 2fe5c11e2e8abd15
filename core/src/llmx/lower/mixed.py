"""Which linear layers of a job get 8 bits, where it has bits to spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
from torch import Tensor, nn

from llmx.config import ExportJob, ModelOptions, QuantizationOptions
from llmx.config.sizes import bytes_in
from llmx.lower.build import Blueprint, draw, fill
from llmx.lower.calibrate import texts_of
from llmx.lower.forecast import MemoryRule, forecast_in_float
from llmx.lower.source import Source
from llmx.plugins import load
from llmx.progress import Stages
from llmx.quantize.mixed import (
    budget_of,
    candidates,
    chosen_upgrades,
    planned_bytes,
    raised,
    upgrade,
)
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx.quantize.sensitivity import divergences

MEASURED_TEXTS = 8
PROGRAM_BYTES = 100_000
PROGRAM_BYTES_PER_LAYER = 15_000
"""What a program takes besides weights, as seen with a few models."""


def with_bits_spent(
    job: ExportJob,
    blueprint: Blueprint,
    source: Source,
    tokenizer: Path | None,
    memory: MemoryRule,
    stages: Stages,
) -> Blueprint:
    """The blueprint, with 8 bits where they help most if the job has bits to spend.

    The weights are read once more for it, and held in fp32 as long as it takes.

    Raises:
        ConfigError: the budget is too small for any plan, or the text to measure on cannot be read.
        MemoryShortageError: ``memory`` refuses to begin.
    """
    if job.quantization.budget is None:
        return blueprint
    memory(forecast_in_float(blueprint))
    with stages.stage("measure sensitivity"):
        vocabulary = blueprint.vocabulary.readable
        texts = texts_of(job, tokenizer, vocabulary=vocabulary, stages=stages)
        return attrs.evolve(blueprint, schemes=_schemes(job, blueprint, source, texts, stages))


def _schemes(
    job: ExportJob, blueprint: Blueprint, source: Source, texts: Sequence[Tensor], stages: Stages
) -> Mapping[str, Scheme]:
    plan = blueprint.schemes
    least = planned_bytes(blueprint.model, plan, blueprint.shared, blueprint.dtype.itemsize)
    setting = _setting(job.quantization)
    budget = budget_of(_wanted(job, blueprint, least), least, setting)
    names = candidates(blueprint.model, plan, blueprint.shared)
    model = _float_model(job, source)
    measured = [(f"text {at}", text) for at, text in enumerate(texts[:MEASURED_TEXTS], start=1)]
    gains = divergences(
        model,
        (text for _, text in stages.track(measured, len(measured))),
        {name: _rounded(plan[name]) for name in names},
    )
    upgrades = [
        upgrade(name, module, plan[name], gains[name])
        for name in names
        if isinstance(module := blueprint.model.get_submodule(name), nn.Linear)
    ]
    chosen = chosen_upgrades(upgrades, budget)
    left = sum(gain for name, gain in gains.items() if name not in chosen)
    stages.note(
        f"{setting}: {len(chosen)} of {len(names)} linear layers get 8 bits; "
        f"the others cause {left / (sum(gains.values()) or 1.0):.0%} of the divergence that all do"
    )
    return raised(plan, chosen, blueprint.model)


def _setting(options: QuantizationOptions) -> str:
    assert options.budget is not None
    value = getattr(options, options.budget)
    text = value if isinstance(value, str) else format(value, "g")
    return f"quantization.{options.budget}={text}"


def _wanted(job: ExportJob, blueprint: Blueprint, least: int) -> int:
    """Bytes that weights may take; ``least``: those that they take with no layer above the rest."""
    options = job.quantization
    if options.bits is not None:
        return int(options.bits * _elements(blueprint) / 8)
    if options.target_size is not None:
        layers = len(getattr(blueprint.model, "layers", ()))
        wanted = bytes_in(options.target_size, "quantization.target_size")
        return wanted - PROGRAM_BYTES - layers * PROGRAM_BYTES_PER_LAYER
    assert options.extra_bits is not None
    return least + int(options.extra_bits * _elements(blueprint) / 8)


def _elements(blueprint: Blueprint) -> int:
    """How many weights there are; those of a shared table count once."""
    return sum(
        parameter.numel()
        for name, parameter in blueprint.model.named_parameters()
        if name not in blueprint.tied.values() or not blueprint.shared
    )


def _rounded(scheme: Scheme) -> Callable[[Tensor], Tensor]:
    # Whatever the job's method: how layers compare is what counts.
    return lambda weight: largest_value(weight, scheme).dequantize()


def _float_model(job: ExportJob, source: Source) -> nn.Module:
    """The model as its checkpoint has it: plain, in fp32, with logits of every position."""
    plain = attrs.evolve(
        job,
        model=ModelOptions(),
        quantization=QuantizationOptions(imported="requantize"),
        debug=attrs.evolve(job.debug, generate_full_logits=True),
    )
    blueprint = draw(plain, source, load(job.base.model_class, None))
    for _ in fill(blueprint, Stages(), largest_value):
        pass
    return blueprint.model
