"""The folder is all that an app needs, described by a schema and a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llmx.artifact import Artifact
from llmx.cli import invoke

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/llmx.schema.json").read_text())


@pytest.mark.parametrize("kind", ["exact", "quantized"])
def test_the_record_follows_the_schema(kind: str, request: pytest.FixtureRequest) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    jsonschema.validate(artifact.manifest, SCHEMA)
    assert set(artifact.manifest) == set(SCHEMA["properties"])


def test_the_schema_refuses_what_is_wrong(exact: Artifact) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    wrong: list[dict[str, Any]] = [
        {"format": 2},
        {"program": {"file": "../model.pte", "bytes": 1, "sha256": "0" * 64}},
        {"model": {}},
        {"tokenizer": 5},
    ]
    for change in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**exact.manifest, **change}, SCHEMA)


def test_every_file_is_listed_with_its_hash(exact: Artifact) -> None:
    beside = {"llmx.json", "MODEL_CARD.md"}
    assert {each.name for each in exact.folder.iterdir()} - beside == set(exact.manifest["files"])
    for name, entry in exact.manifest["files"].items():
        content = (exact.folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_the_card_says_what_the_record_says(quantized: Artifact, checkpoint: Path) -> None:
    card = (quantized.folder / "MODEL_CARD.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "executorch"
    assert "smollm2" in front["tags"]
    for words in (
        "# smollm2 for xnnpack, 8da4w",
        f"| made from | `{checkpoint.name}` |",
        "16 of 16 layers quantized",
        "96 tokens",
        "ends with 257, 258",
        quantized.manifest["program"]["sha256"],
        "prefill equals eager",
    ):
        assert words in card
    assert str(checkpoint.parent) not in card


def test_the_card_tells_of_a_failure(
    exact: Artifact, copied: Callable[[Artifact], Artifact]
) -> None:
    artifact = copied(exact)
    assert artifact.tokenizer is not None
    artifact.tokenizer.write_text(artifact.tokenizer.read_text() + " ")
    assert invoke(["verify", str(artifact.folder), "--quiet"]) == 1
    card = (artifact.folder / "MODEL_CARD.md").read_text()
    assert "failed its verification" in card
    assert "| are the files that were exported | **failed** |" in card
