"""Tables of every option, from the schema and the backends' own classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import yaml

from llmx import Recipe
from llmx.config.backends import backend_keys
from llmx.config.keys import RECIPE, Key, core_keys, core_sections, keys_of
from llmx.plugins import load


def sections() -> str:
    """One table for each section that core knows, with the section's docstring."""
    return "\n".join(_sections())


def backend_table(name: str) -> str:
    """Options and recipes of an installed backend."""
    rows = [_row(key, None) for key in backend_keys(name).values()]
    recipes = load(None, name).backend.recipes().items()
    return "\n".join([*_table(rows, with_support=False), *_recipes(recipes)])


def _sections() -> Iterator[str]:
    for section, options in core_sections().items():
        yield f"### {section}\n\n{_prose(options)}\n"
        reasons = {
            f"{section}.{each.name}": each.metadata.get("unsupported")
            for each in attrs.fields(options)
        }
        keys = keys_of(options, section)
        yield from _table(_row(key, reasons[name]) for name, key in keys.items())
        yield ""
    recipe = core_keys()[RECIPE]
    yield f"### {RECIPE}\n"
    yield from _table([_row(recipe, None)])


def _prose(options: type) -> str:
    """The class's docstring without the parts for Python programmers."""
    paragraphs = (options.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _table(rows: Iterable[tuple[str, ...]], *, with_support: bool = True) -> Iterator[str]:
    headings = ("key", "value", "default", "meaning", "supported")
    shown = headings if with_support else headings[:-1]
    yield f"| {' | '.join(shown)} |"
    yield f"|{'---|' * len(shown)}"
    for row in rows:
        yield f"| {' | '.join(row[: len(shown)])} |"


def _row(key: Key, unsupported: str | None) -> tuple[str, ...]:
    support = "yes" if unsupported is None else f"not yet: {unsupported}"
    cells = (f"`{key.name}`", key.expected, _default(key.default), key.doc, support)
    return tuple(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)


def _default(value: Any) -> str:
    if value is attrs.NOTHING:
        return "required"
    if value is None:
        return "none"
    text: str = yaml.safe_dump(list(value) if isinstance(value, tuple) else value)
    plain = text.removesuffix("...\n").strip()
    return f"`{plain}`"


def _recipes(recipes: Iterable[tuple[str, Recipe]]) -> Iterator[str]:
    for name, recipe in recipes:
        yield f"\nThe recipe `{name}`: {recipe.doc}\n\n```yaml"
        for key, value in recipe.settings.items():
            if isinstance(value, list):
                yield yaml.safe_dump({key: value}, sort_keys=False).strip()
            else:
                yield f"{key}: {_default(value).strip('`')}"
        yield "```"
