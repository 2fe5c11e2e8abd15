"""Making a ``tokenizer.json`` say what the runtime does rightly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmx.checkpoint.files import read_json

COMPOSITION = "NFC"


def leave_accents_alone(path: Path) -> None:
    """Take NFC normalisation out of a ``tokenizer.json``; other files stay as they are.

    The runtime's own NFC (pytorch_tokenizers 1.5) takes accents off: it reads ``ü`` as ``u``. Text
    is nearly always composed already, so that without this step its tokens are the right ones.
    """
    if path.suffix != ".json":
        return
    content = read_json(path)
    normalizer = content.get("normalizer")
    kept = _without_composition(normalizer)
    if kept != normalizer:
        text = json.dumps({**content, "normalizer": kept}, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")


def _without_composition(normalizer: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if normalizer is None or normalizer.get("type") == COMPOSITION:
        return None
    if normalizer.get("type") != "Sequence":
        return normalizer
    steps = [
        kept
        for kept in map(_without_composition, normalizer.get("normalizers") or ())
        if kept is not None
    ]
    return {**normalizer, "normalizers": steps} if steps else None
