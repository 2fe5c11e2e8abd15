"""Texts to try tokenizers and models on."""

from __future__ import annotations

from importlib import resources


def corpus() -> list[str]:
    """Lines in many languages and scripts, code, numbers, spaces and emoji."""
    text = resources.files("llmx.verify").joinpath("corpus.txt").read_text("utf-8")
    return [line.replace("\\n", "\n").replace("\\r", "\r") for line in text.split("\n") if line]
