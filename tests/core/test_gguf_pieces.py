"""A SentencePiece vocabulary inside a GGUF file encodes as SentencePiece and transformers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer

from llmx.checkpoint.gguf_tokenizer import write_tokenizer_json
from llmx.errors import CheckpointError

TEXTS = [
    "Hello, world! I've 12345 apples and don't know 3.14159.",
    "Grüße aus München, schöne Straße, naïve café",
    "日本語のテキスト、漢字かな交じり文。2024年 你好世界",
    "Привет, мир! Как дела? مرحبا بالعالم ١٢٣ नमस्ते दुनिया",
    "def f(x):\n    return x ** 2\n\n\n\tif x:  pass   ",
    "  leading spaces, trailing ones  ",
    "🙂 👩‍👩‍👧 e\u0301 \u00a0\u200b ꙮ",
    "",
    " ",
]
UNKNOWN, BOS, EOS = 0, 1, 2
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
SPECIAL = "<|end|>"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE, trained here with the options of the published ones."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "corpus.txt").write_text("\n".join(TEXTS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=520,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture
def header(pieces: Path) -> dict[str, Any]:
    """What llama.cpp's converter puts into a GGUF file for it, with one token added."""
    model = sentencepiece.SentencePieceProcessor(str(pieces))
    size = model.GetPieceSize()
    kinds = [(model.IsUnknown, 2), (model.IsControl, CONTROL), (model.IsByte, BYTE)]
    types = [next((kind for test, kind in kinds if test(token)), NORMAL) for token in range(size)]
    values = {
        "model": "llama",
        "tokens": [*(model.IdToPiece(token) for token in range(size)), SPECIAL],
        "scores": [*(model.GetScore(token) for token in range(size)), -1000.0],
        "token_type": [*types, CONTROL],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "unknown_token_id": UNKNOWN,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


@pytest.fixture
def convert(header: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    def run(**changes: Any) -> Path:
        changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        path = write_tokenizer_json("a file", header | changed, tmp_path, lambda name: None)
        assert path is not None
        return path

    return run


@pytest.mark.parametrize("text", TEXTS)
def test_it_encodes_as_sentencepiece(convert: Callable[..., Path], pieces: Path, text: str) -> None:
    original = sentencepiece.SentencePieceProcessor(str(pieces))
    converted = Tokenizer.from_file(str(convert()))
    ids = converted.encode(text, add_special_tokens=False).ids
    assert ids == original.EncodeAsIds(text)
    assert converted.decode(ids) == text


def test_the_runtimes_tokenizer_agrees(convert: Callable[..., Path]) -> None:
    from pytorch_tokenizers import CppHFTokenizer

    path = convert()
    converted, runtime = Tokenizer.from_file(str(path)), CppHFTokenizer()
    runtime.load(str(path))
    for text in [*TEXTS, f"Hi{SPECIAL}there<s>"]:
        assert list(runtime.encode(text, 1, 0)) == converted.encode(text).ids, text


def test_merges_are_those_of_transformers_conversion(
    convert: Callable[..., Path], pieces: Path
) -> None:
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    theirs = SentencePieceExtractor(str(pieces)).extract(None)["merges"]
    ours = json.loads(convert().read_text(encoding="utf-8"))["model"]["merges"]
    # Merges that make the same piece have the same score; their order among themselves is free.
    assert sorted(map(tuple, ours)) == sorted(theirs)


def test_texts_begin_with_bos_unless_the_file_says_otherwise(convert: Callable[..., Path]) -> None:
    assert Tokenizer.from_file(str(convert())).encode("Hi").ids[0] == BOS
    assert Tokenizer.from_file(str(convert(add_bos_token=False))).encode("Hi").ids[0] != BOS


def test_the_space_before_a_text_may_be_turned_off(
    convert: Callable[..., Path], pieces: Path
) -> None:
    without = Tokenizer.from_file(str(convert(add_space_prefix=False)))
    assert not without.encode("apples", add_special_tokens=False).tokens[0].startswith("▁")
    assert without.decode(without.encode("apples").ids) == "apples"


def test_a_vocabulary_without_bytes_is_refused(
    header: dict[str, Any], convert: Callable[..., Path]
) -> None:
    types = [NORMAL if kind == BYTE else kind for kind in header["tokenizer.ggml.token_type"]]
    with pytest.raises(CheckpointError, match="kind 't5'") as caught:
        convert(model="t5", token_type=types)
    assert "--tokenizer" in (caught.value.remedy or "")
