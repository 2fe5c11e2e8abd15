"""Tiny models and their exports, shared by the tests of all backends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from llmx import Artifact
from llmx.lower import export
from llmx.testing.tiny import SHAPE, eager_model, tiny_job

Exporter = Callable[..., Artifact]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """Export a tiny random model; the same options give the same artifact once."""
    made: dict[str, Artifact] = {}

    def run(*, config: dict[str, Any] | None = None, **options: Any) -> Artifact:
        key = json.dumps([config, options], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("tiny")
            made[key] = export(tiny_job("smollm2", folder, config or {}, **options))
        return made[key]

    return run


@pytest.fixture(scope="session")
def eager() -> Callable[..., nn.Module]:
    """``llmx.testing.tiny.eager_model``."""
    return eager_model


@pytest.fixture(scope="session")
def params_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("params") / "config.json"
    path.write_text(json.dumps(dict(SHAPE)))
    return path
