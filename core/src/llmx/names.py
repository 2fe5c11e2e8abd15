"""How people spell the names of families, sizes and backends, and what they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from llmx.errors import ConfigError

SEPARATORS = "-_."


def normalised(name: str) -> str:
    """``name`` without case and separators: two spellings of one name compare equal."""
    return "".join(char for char in name if char not in SEPARATORS).casefold()


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like ``name``, if any looks alike."""
    by_key = {normalised(candidate): candidate for candidate in candidates}
    found = difflib.get_close_matches(normalised(name), by_key, n=1, cutoff=0.6)
    return by_key[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``", did you mean X?"`` to follow a message, or nothing."""
    suggestion = nearest(name, candidates)
    return f", did you mean {suggestion}?" if suggestion else ""


def split_model_class(value: str, families: Iterable[str]) -> tuple[str, str | None]:
    """Split a ``model_class`` that may hold a size into family and size hint.

    An exact family name wins, then the longest family name that ``value`` starts with; the rest
    is the hint, to be looked up with :func:`match_size`. A value that fits no family comes back
    unchanged.
    """
    wanted = normalised(value)
    by_key = {normalised(family): family for family in families}
    if wanted in by_key:
        return by_key[wanted], None
    prefixes = [key for key in by_key if wanted.startswith(key)]
    if not prefixes:
        return value, None
    longest = max(prefixes, key=len)
    return by_key[longest], _after_prefix(value, len(longest))


def _after_prefix(value: str, letters: int) -> str:
    """What is left of ``value`` after that many characters, not counting separators."""
    for position, char in enumerate(value):
        if letters == 0 and char not in SEPARATORS:
            return value[position:]
        letters -= char not in SEPARATORS
    return ""


def match_size(hint: str, sizes: Iterable[str]) -> str:
    """The size that ``hint`` spells.

    Raises:
        ConfigError: there is none; the message lists the sizes.
    """
    names = list(sizes)
    for name in names:
        if normalised(name) == normalised(hint):
            return name
    raise ConfigError(
        f"no size {hint!r}{did_you_mean(hint, names)}",
        remedy=f"sizes: {', '.join(names)}",
    )
