"""Tiny models and their exports, shared by the tests of all backends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.tiny import tiny_job, write_config
from torch import nn

from llmx import Artifact, ExportJob, export
from llmx.config import load_job
from llmx.lower.build import Blueprint, draw, fill
from llmx.lower.context import resolve_lengths
from llmx.lower.pt2e import with_graph_quantized
from llmx.lower.source import open_source
from llmx.plugins import load
from llmx.progress import Silent, Stages
from llmx.quantize.rounding import rounding_for_linears

Exporter = Callable[..., Artifact]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """Export a tiny random model; the same options give the same artifact once."""
    made: dict[str, Artifact] = {}

    def run(
        *, family: str = "smollm2", config: dict[str, Any] | None = None, **options: Any
    ) -> Artifact:
        key = json.dumps([family, config, options], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("tiny")
            params = write_config(folder, **(config or {}))
            made[key] = export(tiny_job(params, family, output_dir=str(folder / "out"), **options))
        return made[key]

    return run


@pytest.fixture(scope="session")
def eager() -> Callable[..., nn.Module]:
    """The eager model of the job that an artifact records, with other options of ``model``."""

    def rebuild(artifact: Artifact, **options: Any) -> nn.Module:
        job = load_job(config=artifact.folder / "llmx.json").job
        job = attrs.evolve(job, model=attrs.evolve(job.model, **options))
        plugins = load(job.base.model_class, job.backend.name)
        source = open_source(job.base, plugins.family, Silent())
        job = resolve_lengths(job, source.params)
        blueprint = draw(job, source, plugins)
        list(fill(blueprint, Stages(), rounding_for_linears(job.quantization)))
        return blueprint.model

    return rebuild


Drawn = tuple[ExportJob, Blueprint, list[Any]]


@pytest.fixture(scope="session")
def drawn_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Drawn]:
    """Job, blueprint and account of a tiny model as it is before lowering, its graph quantized."""
    made: dict[str, Drawn] = {}

    def run(
        *, family: str = "smollm2", config: dict[str, Any] | None = None, **options: Any
    ) -> Drawn:
        key = json.dumps([family, config, options])
        if key not in made:
            params = write_config(tmp_path_factory.mktemp("drawn"), **(config or {}))
            job = tiny_job(params, family, **options)
            plugins = load(family, job.backend.name)
            source = open_source(job.base, plugins.family, Silent())
            job = resolve_lengths(job, source.params)
            blueprint = draw(job, source, plugins)
            records = list(fill(blueprint, Stages(), rounding_for_linears(job.quantization)))
            made[key] = (
                job,
                *with_graph_quantized(job, blueprint, records, plugins.backend, None, Stages()),
            )
        return made[key]

    return run


@pytest.fixture(scope="session")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("params"))
