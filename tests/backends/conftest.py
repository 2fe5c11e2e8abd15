"""Tiny models and their exports, shared by the tests of all backends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from llmx import Artifact, ExportJob
from llmx.lower import export
from llmx.lower.build import Blueprint, draw, fill
from llmx.lower.context import resolve_lengths
from llmx.lower.pt2e import with_graph_quantized
from llmx.lower.source import open_source
from llmx.plugins import load
from llmx.progress import Silent, Stages
from llmx.quantize.rounding import rounding_for_linears
from llmx.testing.reference import random_model, save_checkpoint
from llmx.testing.tiny import eager_model, tiny_job, write_config

LAYERS, DIM, HIDDEN, RANK = 4, 64, 128, 2
ADAPTED: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": HIDDEN,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
TARGETS = {"polite": ("self_attn.q_proj", DIM, DIM), "terse": ("mlp.down_proj", HIDDEN, DIM)}

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
            made[key] = export(tiny_job(family, folder, config or {}, **options))
        return made[key]

    return run


@pytest.fixture(scope="session")
def eager() -> Callable[..., nn.Module]:
    """``llmx.testing.tiny.eager_model``."""
    return eager_model


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
            job = tiny_job(family, tmp_path_factory.mktemp("drawn"), config or {}, **options)
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


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 4 layers, with the adapters ``polite`` and ``terse`` in folders beside it."""
    folder = tmp_path_factory.mktemp("base")
    save_checkpoint(random_model("llama", ADAPTED), folder, eos=[2], bos=1)
    for seed, (name, (target, width, rows)) in enumerate(TARGETS.items()):
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"base_model.model.model.layers.{layer}.{target}.lora_{part}.weight": torch.randn(
                shape, generator=generator
            )
            / 4
            for layer in range(LAYERS)
            for part, shape in (("A", (RANK, width)), ("B", (rows, RANK)))
        }
        adapter = folder.parent / name
        adapter.mkdir(exist_ok=True)
        save_file(tensors, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    return folder
