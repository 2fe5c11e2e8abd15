"""The runtime loses accents where a tokenizer asks for NFC; artifacts do not ask for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytorch_tokenizers import CppHFTokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from llmx.lower.tokenizer_file import leave_accents_alone

COMPOSED = "Grüße, déjà vu"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A byte-level tokenizer that composes characters first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def encode(path: Path) -> list[int]:
    runtime = CppHFTokenizer()
    runtime.load(str(path))
    return list(runtime.encode(COMPOSED, 0, 0))


def test_the_runtime_still_loses_accents(path: Path) -> None:
    """When this fails, a newer runtime is right and the file may keep its normaliser."""
    assert len(encode(path)) == len("Gruße, deja vu".encode())


def test_without_normalisation_composed_text_has_the_publishers_tokens(path: Path) -> None:
    expected = Tokenizer.from_file(str(path)).encode(COMPOSED).ids
    leave_accents_alone(path)
    assert encode(path) == expected


@pytest.mark.parametrize(
    ("normalizer", "kept"),
    [
        (None, None),
        ({"type": "Lowercase"}, {"type": "Lowercase"}),
        ({"type": "NFC"}, None),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, None),
        (
            {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
            {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
        ),
    ],
)
def test_only_composition_is_taken_out(path: Path, normalizer: Any, kept: Any) -> None:
    content = {**json.loads(path.read_text()), "normalizer": normalizer}
    path.write_text(json.dumps(content))
    leave_accents_alone(path)
    assert json.loads(path.read_text()) == {**content, "normalizer": kept}


def test_a_file_that_needs_no_change_is_not_touched(path: Path) -> None:
    text = path.read_text().replace('"type": "NFC"', '"type": "NFKC"')
    path.write_text(text)
    leave_accents_alone(path)
    assert path.read_text() == text


def test_other_tokenizers_pass(tmp_path: Path) -> None:
    model = tmp_path / "tokenizer.model"
    model.write_bytes(b"\n\x0b\n\x05<unk>")
    leave_accents_alone(model)
    assert model.read_bytes() == b"\n\x0b\n\x05<unk>"
