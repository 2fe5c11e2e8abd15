"""How linear layers are rounded where the job leaves that to the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import attrs

from llmx.config import ExportJob
from llmx.config.checks import AUTOMATIC, CALIBRATION_KEYS
from llmx.lower.build import Blueprint
from llmx.progress import Stages
from llmx.quantize.plan import ROW_BITS

Method = Literal["gptq", "search"]
MOST_WEIGHTS = 2_000_000_000
"""Rounding more of them for a text takes hours on a small machine, and less takes minutes."""
GIGA = 1e9


def resolve_method(
    job: ExportJob, blueprint: Blueprint, tokenizer: Path | None, stages: Stages
) -> ExportJob:
    """The job with an automatic ``method`` filled in: for a text, where that takes minutes.

    Texts that the job gives are used, whatever it takes.
    """
    quantization = job.quantization
    if quantization.method != AUTOMATIC:
        return job
    if quantization.use_hqq is not None or quantization.qmode is None:
        method: Method | None = None
    elif any(getattr(quantization, each) is not None for each in CALIBRATION_KEYS):
        method = "gptq"
    else:
        method = _method(job, blueprint, tokenizer, stages)
    return attrs.evolve(job, quantization=attrs.evolve(quantization, method=method))


def _method(job: ExportJob, blueprint: Blueprint, tokenizer: Path | None, stages: Stages) -> Method:
    weights = sum(math.prod(shape) for shape in blueprint.shapes.values())
    few_bits = any(each.bits < ROW_BITS for each in blueprint.schemes.values())
    if job.base.random_weights or not few_bits or job.quantization.imported == "keep":
        return "search"
    if tokenizer is None:
        stages.note("without a tokenizer, weights are not rounded for a text")
        return "search"
    if weights > MOST_WEIGHTS:
        stages.note(
            f"{weights / GIGA:.1f} billion weights are not rounded for a text, which would take "
            "long; quantization.method=gptq does it all the same"
        )
        return "search"
    stages.note("weights are rounded for a text; quantization.method=search is faster without")
    return "gptq"
