"""Dotted keys: what may be set, with type, default and meaning."""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from llmx.config.adapter import Adapter
from llmx.config.schema import ExportJob
from llmx.errors import ConfigError, PluginError
from llmx.names import did_you_mean

BACKEND = "backend"
RECIPE = "recipe"


@frozen
class Key:
    """One option.

    ``type`` is without its ``None``; ``optional`` says that the value may be none. ``choices`` are
    the allowed values as text, empty where the type does not list them. ``default`` is
    ``attrs.NOTHING`` for a required option.
    """

    name: str
    type: Any
    optional: bool
    default: Any
    doc: str

    @property
    def field(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def choices(self) -> tuple[str, ...]:
        if typing.get_origin(self.type) is typing.Literal:
            return tuple(str(choice) for choice in typing.get_args(self.type))
        if isinstance(self.type, type) and issubclass(self.type, enum.Enum):
            return tuple(str(member.value) for member in self.type)
        return ()

    @property
    def expected(self) -> str:
        """The values that fit, in words."""
        words = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "text",
            list[int]: "a list of whole numbers",
            list[str]: "a list of texts",
            Adapter: "a path or a mapping",
        }
        expected = words.get(self.type, "a mapping" if _is_mapping(self.type) else "a list")
        if self.choices:
            expected = f"one of {', '.join(self.choices)}"
        return f"{expected} or none" if self.optional else expected


def keys_of(options: type, prefix: str) -> dict[str, Key]:
    """The keys of an attrs class under ``prefix``, in the order of its fields.

    Raises:
        PluginError: the class is not an attrs class, or its annotations cannot be read.
    """
    if not attrs.has(options):
        raise PluginError(f"the options of {prefix} are {options!r}, not an attrs class")
    try:
        hints = typing.get_type_hints(options)
    except NameError as error:
        raise PluginError(
            f"the options of {prefix} have an annotation that cannot be read: {error}",
            remedy="import the types of options at run time, not under TYPE_CHECKING",
        ) from error
    found = {}
    for each in attrs.fields(options):
        inner, optional = _without_none(hints[each.name])
        default = each.default
        if hasattr(default, "factory"):
            default = default.factory()
        name = f"{prefix}.{each.name}"
        found[name] = Key(name, inner, optional, default, each.metadata.get("doc", ""))
    return found


@functools.cache
def core_sections() -> dict[str, type]:
    """The attrs class of every section that core knows, by name; backends have their own."""
    hints = typing.get_type_hints(ExportJob)
    return {
        each.name: hints[each.name]
        for each in attrs.fields(ExportJob)
        if each.name != BACKEND and attrs.has(hints[each.name])
    }


def core_keys() -> dict[str, Key]:
    """Every key outside ``backend``, and the ``recipe``."""
    found: dict[str, Key] = {}
    for section, options in core_sections().items():
        found |= keys_of(options, section)
    found[RECIPE] = Key(RECIPE, str, True, None, "Named starting point.")
    return found


def unknown_key(name: str, known: Mapping[str, Key], origin: str) -> ConfigError:
    """The error for a key that nothing answers to."""
    hint = did_you_mean(name, known)
    return ConfigError(
        f"unknown key {name}{hint}",
        remedy=f"it comes from {origin}" + ("" if hint else f"; keys: {', '.join(known)}"),
    )


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [each for each in typing.get_args(hint) if each is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return hint, False


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)
