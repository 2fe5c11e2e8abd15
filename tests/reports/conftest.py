"""One export of a small model that is asked for everything it can tell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmx import Artifact
from llmx.cli import invoke

LAYERS = 5
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Five layers, of which three are lowered and the others repeat the middle one."""
    folder = tmp_path_factory.mktemp("reports")
    params = folder / "config.json"
    params.write_text(json.dumps(CONFIG))
    words = ["export", "smollm2", "--params", str(params), "--random-weights", "--quiet"]
    words += ["debug.generate_etrecord=true"]
    assert invoke([*words, "-o", str(folder / "artifact"), "--debug"]) == 0
    return Artifact.open(folder / "artifact")
