"""A named starting point of a backend's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

ONE_LENGTH: Mapping[str, Any] = {
    "model.use_kv_cache": True,
    "model.use_sdpa_with_kv_cache": False,
    "model.enable_dynamic_shape": False,
    "export.max_seq_length": None,
    "export.max_context_length": None,
}
"""Where recipes begin whose backends take inputs of one length, and PyTorch's attention."""


@frozen
class Recipe:
    """What a job says before its file, flags and dotted keys do.

    Attributes:
        doc: what the recipe is for, in a sentence.
        settings: dotted keys and their values.
    """

    doc: str
    settings: Mapping[str, Any]
