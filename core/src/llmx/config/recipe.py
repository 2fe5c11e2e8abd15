"""A named starting point of a backend's jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen


@frozen
class Recipe:
    """What a job says before its file, flags and dotted keys do.

    Attributes:
        doc: what the recipe is for, in a sentence.
        settings: dotted keys and their values.
    """

    doc: str
    settings: Mapping[str, Any]
