"""Tokenizers: does the runtime's split a text as the reference does?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmx.run.tokenizer import TextTokenizer, load_tokenizer
from llmx.verify.corpus import corpus
from llmx.verify.finding import Finding, measured, skipped

NAME = "runtime tokenizer equals the checkpoint's"
SHOWN = 60


def check_tokenizer(runtime: TextTokenizer, reference: Path) -> Finding:
    """Encode every line of the corpus with both; the figure is how many lines differ.

    Args:
        reference: the tokenizer's file as its publishers made it.
    """
    try:
        encode = _reference(reference)
    except ValueError as error:
        return skipped(NAME, str(error))
    lines = corpus()
    differing = [line for line in lines if runtime.encode(line) != encode(line)]
    detail = f"{len(lines)} lines"
    if differing:
        detail = f"of {len(lines)} lines; the first is {differing[0][:SHOWN]!r}"
    return measured(NAME, len(differing), 0, detail)


def _reference(path: Path) -> Any:
    if path.suffix != ".json":
        # SentencePiece's and tiktoken's own libraries are what llmx runs.
        return load_tokenizer(path).encode
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
