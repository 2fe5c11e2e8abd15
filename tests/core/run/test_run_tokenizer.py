"""Prompts become the ids that Hugging Face gives, and ids become text, character by character."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer

from llmx.errors import ArtifactError
from llmx.run.text_stream import TextStream
from llmx.run.tokenizer import TextTokenizer, load_tokenizer

TEXTS = [
    "hello world",
    "  two  spaces\n\n\ttab",
    "Grüße, 日本語 🙂👩‍👩‍👧!",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a <|im_end|>b<|endoftext|>",
    "<|im_start not closed",
]


def with_bos(source: Path, target: Path) -> Path:
    content = json.loads(source.read_text())
    special = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    target.write_text(json.dumps(content))
    return target


@pytest.fixture(params=["without bos", "with bos"])
def either(request: pytest.FixtureRequest, tokenizer_file: Path, tmp_path: Path) -> Path:
    if request.param == "without bos":
        return tokenizer_file
    return with_bos(tokenizer_file, tmp_path / "tokenizer.json")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with a token per byte."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["hello world what is the capital of france paris city"] * 9),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of tiktoken's kind with a token per byte."""
    lines = [f"{base64.b64encode(bytes([n])).decode()} {n}" for n in range(256)]
    path = tmp_path_factory.mktemp("ranks") / "tokenizer.model"
    path.write_text("\n".join(lines) + "\n")
    return path


def streamed(tokenizer: TextTokenizer, tokens: list[int], before: list[int]) -> list[str]:
    stream = TextStream(tokenizer.decode, before)
    return [*(stream.push(token) for token in tokens), stream.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_hugging_face(either: Path, text: str) -> None:
    reference = Tokenizer.from_file(str(either))
    tokenizer = load_tokenizer(either)
    assert tokenizer.encode_document(text) == reference.encode(text).ids
    assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_only_whole_characters_are_shown(
    tokenizer_file: Path, ids: Callable[[str], list[int]]
) -> None:
    shown = streamed(load_tokenizer(tokenizer_file), ids("a🙂é日"), ids("x"))
    assert shown == ["a", "", "", "", "🙂", "", "é", "", "", "日", ""]


def test_a_character_that_is_never_completed_is_marked_not_dropped(
    tokenizer_file: Path, ids: Callable[[str], list[int]]
) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    half = ids("🙂")[:2]
    assert "".join(streamed(tokenizer, [*half, *ids("ok")], [])) == "\ufffdok"
    assert "".join(streamed(tokenizer, [*ids("ok"), *half], [])) == "ok\ufffd"


def test_special_tokens_are_not_shown(
    tokenizer_file: Path, ids: Callable[[str], list[int]]
) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    assert "".join(streamed(tokenizer, ids("a<|im_start|>b"), [])) == "ab"
    assert tokenizer.spelling(1) == "<|im_start|>"
    assert tokenizer.spelling(10**6) is None


def test_sentencepiece_models_load_too(pieces: Path) -> None:
    tokenizer = load_tokenizer(pieces)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    text = "hello 🙂 paris"
    tokens = tokenizer.encode(text)
    assert tokens == reference.encode(text)
    assert tokenizer.encode_document(text) == [reference.bos_id(), *tokens]
    hello = next(n for n in range(len(tokens)) if reference.decode(tokens[:n]) == "hello")
    assert "".join(streamed(tokenizer, tokens[hello:], tokens[:hello])) == " 🙂 paris"
    assert tokenizer.spelling(reference.bos_id()) == "<s>"
    assert tokenizer.size == reference.vocab_size()


def test_rank_files_load_too(ranks: Path) -> None:
    tokenizer = load_tokenizer(ranks)
    assert tokenizer.encode("é") == list("é".encode())
    assert tokenizer.encode_document("<|eot_id|>")[0] == 256
    assert len(tokenizer.encode("<|eot_id|>")) == 1
    assert "".join(streamed(tokenizer, [*"a🙂".encode(), 256], [])) == "a🙂"
    assert tokenizer.spelling(256) == "<|begin_of_text|>"


@pytest.mark.parametrize("content", [b"{}", b"{ not json", b"\x00\x01binary", b""])
def test_a_file_that_is_no_tokenizer_is_refused(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json") as error:
        load_tokenizer(path)
    assert error.value.remedy
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        load_tokenizer(tmp_path / "absent.json")
