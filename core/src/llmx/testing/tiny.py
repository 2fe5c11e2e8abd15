"""Tiny models with random weights, exported for a backend, and their eager models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from torch import nn

from llmx.artifact import Artifact
from llmx.cache import NoStore
from llmx.config import ExportJob
from llmx.config.loading import load_job
from llmx.errors import LlmxError
from llmx.lower import export
from llmx.lower.build import draw, fill
from llmx.lower.context import resolve_lengths
from llmx.lower.source import open_source
from llmx.model.params import DecoderParams
from llmx.plugins import FAMILIES, installed, load
from llmx.progress import Silent, Stages
from llmx.quantize.rounding import rounding_for_linears

SHAPE: Mapping[str, Any] = MappingProxyType({
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
})  # fmt: skip
"""Fields of ``config.json``: 2 layers, 64 wide, 128 tokens."""


def usual_family() -> str | None:
    """An installed family whose models are llmx's own decoder; ``None`` if there is none."""
    for each in installed(FAMILIES):
        try:
            params = load(each.name, None).family.params_from_hf(config=SHAPE)
        except (LlmxError, KeyError):
            continue
        if type(params) is DecoderParams:
            return each.name
    return None


def write_config(folder: Path, **fields: Any) -> Path:
    """The ``config.json`` of ``SHAPE`` in ``folder``, with other ``fields``."""
    path = folder / "config.json"
    path.write_text(json.dumps({**SHAPE, **fields}), encoding="utf-8")
    return path


def tiny_job(family: str, folder: Path, shape: Mapping[str, Any], **options: Any) -> ExportJob:
    """A job for a model of random weights; its files go to ``folder``.

    Args:
        shape: fields of ``config.json`` beside or instead of those in ``SHAPE``.
        options: as ``ExportJob.create`` takes them.
    """
    params = str(write_config(folder, **shape))
    return ExportJob.create(
        family, params=params, random_weights=True, output_dir=str(folder / "out"), **options
    )


def export_anew(job: ExportJob) -> Artifact:
    """Export without what earlier exports left in the cache."""
    return export(job, store=NoStore())


def eager_model(artifact: Artifact, **options: Any) -> nn.Module:
    """The eager model of the job that an artifact records, with other options of ``model``."""
    job = load_job(config=artifact.folder / "llmx.json").job
    job = attrs.evolve(job, model=attrs.evolve(job.model, **options))
    plugins = load(job.base.model_class, job.backend.name)
    source = open_source(job.base, plugins.family, Silent())
    job = resolve_lengths(job, source.params)
    blueprint = draw(job, source, plugins)
    for _ in fill(blueprint, Stages(), rounding_for_linears(job.quantization)):
        pass
    return blueprint.model
