"""The tiny model that tests export, and jobs with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmx import ExportJob

CONFIG: dict[str, Any] = {
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
}


def write_config(folder: Path, **fields: Any) -> Path:
    """The model's ``config.json`` in ``folder``, with other ``fields``."""
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, **fields}), encoding="utf-8")
    return path


def tiny_job(params: Path, family: str = "smollm2", **options: Any) -> ExportJob:
    """A job for a model of this ``config.json`` with random weights, the same every time."""
    return ExportJob.create(family, params=str(params), random_weights=True, **options)
