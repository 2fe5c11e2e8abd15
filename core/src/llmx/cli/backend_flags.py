"""Flags that a backend's options bring: ``--extended-ops`` is ``backend.<name>.extended_ops``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.config.backends import backend_keys
from llmx.config.keys import Key
from llmx.config.loading import selected_backend
from llmx.errors import UserError
from llmx.names import did_you_mean, split_model_class
from llmx.plugins import FAMILIES, installed


@frozen
class Words:
    """A command line's free words: the family, and ``key=value`` overrides."""

    family: str | None
    overrides: tuple[str, ...]


def split_words(
    words: Iterable[str],
    *,
    config: Path | None,
    settings: Mapping[str, Any],
    known_flags: Iterable[str],
) -> Words:
    """Sort family, overrides and backend flags out of the words that no option took.

    Args:
        words: in the order in which they were written.
        config, settings: the rest of the command line; they decide which backend is meant.
        known_flags: the command's own options, for suggestions.

    Raises:
        UserError: a flag that neither the command nor the backend has, or a second family.
    """
    words = list(words)
    if not any(word.startswith("-") for word in words):
        return _sorted(words)
    # A flag's value can be told from a family only once the backend is known, and the family may
    # bring the backend: so the family is guessed first.
    backend = selected_backend(
        family=_guess_family(words),
        config=config,
        settings=settings,
        overrides=[word for word in words if "=" in word and not word.startswith("-")],
    )
    keys = backend_keys(backend) if backend is not None else {}
    flags = {f"--{key.field.replace('_', '-')}": key for key in keys.values()}
    return _sorted(_without_flags(words, flags, backend, [*known_flags, *flags]))


def _guess_family(words: list[str]) -> str | None:
    """The first word that names an installed family, else the first that follows no flag."""
    names = [plugin.name for plugin in installed(FAMILIES)]
    free = [
        (before, word)
        for before, word in pairwise(["", *words])
        if not word.startswith("-") and "=" not in word
    ]
    known = [word for _, word in free if split_model_class(word, names)[0] in names]
    return next(
        iter((*known, *(word for before, word in free if not before.startswith("-")))), None
    )


def _without_flags(
    words: list[str], flags: Mapping[str, Key], backend: str | None, known: list[str]
) -> Iterator[str]:
    """The words, with each flag turned into an override."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            yield word
            continue
        flag, equals, value = word.partition("=")
        positive = flag.replace("--no-", "--", 1)
        key = flags.get(flag) or flags.get(positive)
        if key is None or (flag not in flags and key.type is not bool):
            raise UserError(
                f"no option {flag}{did_you_mean(flag, known)}",
                remedy=f"see --help, and `llmx backends {backend}` for its own options"
                if backend
                else "see --help; a backend's own options need --backend",
            )
        if key.type is bool:
            if equals:
                raise UserError(f"{flag} takes no value", remedy=f"say {flag} alone")
            value = "true" if flag in flags else "false"
        elif not equals:
            value = next(rest, "")
            if not value or value.startswith("--"):
                raise UserError(f"{flag} needs a value: {key.expected}")
        yield f"{key.name}={value}"


def _sorted(words: Iterable[str]) -> Words:
    free = list(words)
    families = [word for word in free if "=" not in word]
    if len(families) > 1:
        raise UserError(
            f"two families are named: {' and '.join(families)}",
            remedy="name one; options are written KEY=VALUE",
        )
    return Words(families[0] if families else None, tuple(word for word in free if "=" in word))
