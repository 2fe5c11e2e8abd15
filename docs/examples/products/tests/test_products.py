"""The example backend takes what it says, and its programs compute what their models compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmx.cli import invoke
from llmx.plugins import FAMILIES, installed, load

# Gate, up and down have 128 * 64 weights each; all other products have fewer.
SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 64, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command that exports a tiny model of some installed family."""
    families = [each.name for each in installed(FAMILIES) if load(each.name, None).family.sizes()]
    params = tmp_path / "tiny.json"
    params.write_text(json.dumps(SHAPE), encoding="utf-8")
    command = ["export", families[0], "--params", str(params), "--random-weights", "--debug"]
    return [*command, "--backend", "products", "-o", str(tmp_path / "out"), "--quiet"]


def record(words: list[str], *more: str) -> Any:
    """``llmx.json`` of an export."""
    assert invoke([*words, *more]) == 0
    folder = Path(words[words.index("-o") + 1])
    return json.loads((folder / "llmx.json").read_text(encoding="utf-8"))


def test_large_products_are_delegated_and_the_result_is_right(words: list[str]) -> None:
    made = record(words, "backend.products.least_weights=5000")
    assert made["checks"]
    assert all(each["passed"] for each in made["checks"])
    assert made["delegation"]["subgraphs"] == 3


def test_a_quantization_is_refused(words: list[str]) -> None:
    words.remove("--debug")
    assert invoke([*words, "--quantize", "8da4w"]) == 2
