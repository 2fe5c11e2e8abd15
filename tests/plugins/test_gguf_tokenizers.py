"""Families know the tokenizer rules that GGUF files only name, as the runtime reads them too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from llmx.checkpoint.gguf_tokenizer import write_tokenizer_json
from llmx.lower.tokenizer_file import leave_accents_alone
from llmx.plugins import load

RULES = [
    ("llama3", "llama-bpe"),
    ("llama3_1", "llama-bpe"),
    ("llama3_2", "llama-bpe"),
    ("qwen2_5", "qwen2"),
    ("qwen3", "qwen2"),
    ("phi_4_mini", "gpt-4o"),
    ("smollm2", "smollm"),
]
TEXTS = [
    "Hello, world! I've 12345 apples, DON'T I? 3.14159",
    "Grüße aus München; schöne Straße",
    "日本語のテキスト、2024年 Привет мир! مرحبا ١٢٣ नमस्ते",
    "def f(x):\n    return x ** 2\n\n\n\tif x:  pass   ",
    "é 🙂 \u00a0camelCaseWords/path\r\n\r\n  end",
]
SPLITS = {
    "llama-bpe": ["ab", " ", " cd", "123", "45", "'s", "!!\n"],
    "qwen2": ["ab", " ", " cd", "1", "2", "3", "4", "5", "'s", "!!\n"],
    "gpt-4o": ["ab", " ", " cd", "123", "45", "'s", "!!\n"],
    "smollm": ["ab", " ", " cd", "1", "2", "3", "4", "5", "'s", "!!", "\n"],
}


def convert(family: str, rule: str, folder: Path, **changes: Any) -> Path:
    """The ``tokenizer.json`` for a header whose tokens are the 256 bytes, ``ab`` and ``abc``."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "abc"]
    header = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": ["a b"],
        **changes,
    }
    hooks = load(family, None).family
    path = write_tokenizer_json(
        "a file", header, folder, lambda name: hooks.gguf_tokenizer(name=name)
    )
    assert path is not None
    return path


@pytest.mark.parametrize(("family", "rule"), RULES)
def test_the_runtimes_tokenizer_splits_alike(family: str, rule: str, tmp_path: Path) -> None:
    from pytorch_tokenizers import CppHFTokenizer

    path = convert(family, rule, tmp_path)
    original = Tokenizer.from_file(str(path))
    leave_accents_alone(path)
    runtime = CppHFTokenizer()
    runtime.load(str(path))
    for text in TEXTS:
        assert list(runtime.encode(text, 0, 0)) == original.encode(text).ids, text


@pytest.mark.parametrize(("family", "rule"), RULES)
def test_text_is_split_as_the_rule_says(family: str, rule: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(convert(family, rule, tmp_path)))
    text = "ab  cd12345's!!\n"
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == SPLITS[rule]


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
def test_qwen_splits_as_its_tokenizer_in_transformers(family: str, tmp_path: Path) -> None:
    from transformers import Qwen2Tokenizer

    section = json.loads(convert(family, "qwen2", tmp_path).read_text())
    theirs = json.loads(Qwen2Tokenizer()._tokenizer.to_str())
    assert section["pre_tokenizer"] == theirs["pre_tokenizer"]
    assert section["normalizer"] == theirs["normalizer"] == {"type": "NFC"}


def test_llama3_takes_whole_words_of_the_vocabulary_without_merging(tmp_path: Path) -> None:
    text, whole = "abc", 257
    llama = Tokenizer.from_file(str(convert("llama3", "llama-bpe", tmp_path)))
    assert llama.encode(text).ids == [whole]
    qwen = Tokenizer.from_file(str(convert("qwen3", "qwen2", tmp_path)))
    assert len(qwen.encode(text).ids) == 2


@pytest.mark.parametrize("family", ["llama3_2", "qwen3", "phi_4_mini", "smollm2"])
def test_other_rules_are_left_to_other_families(family: str) -> None:
    assert load(family, None).family.gguf_tokenizer(name="mpt") is None
