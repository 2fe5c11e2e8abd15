"""A value as it was written, and what it becomes under the type of its key."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import cattrs
import yaml
from attrs import frozen

from llmx.config.adapter import Adapter, parse_adapter
from llmx.config.keys import Key
from llmx.config.metadata import Metadata, parse_metadata
from llmx.errors import ConfigError

NULLS = ("", "~", "null", "none")


@frozen
class Given:
    """One value and where it came from.

    ``text`` is what was written, for keys that hold text (``size: 135`` means ``"135"``);
    ``value`` is what it means in YAML. ``text`` is ``None`` for lists and mappings.
    ``is_null`` is true for an unquoted null, ``~``, none or nothing at all.
    """

    value: Any
    text: str | None
    is_null: bool
    origin: str

    @classmethod
    def from_python(cls, value: Any, origin: str) -> Given:
        """A value that already has its type, or text."""
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, list | tuple | Mapping):
            return cls(value, None, False, origin)
        if value is None:
            return cls(None, None, True, origin)
        return cls(value, str(value), str(value).lower() in NULLS, origin)

    @classmethod
    def from_text(cls, text: str, origin: str) -> Given:
        """The right-hand side of ``key=value`` on a command line."""
        with contextlib.suppress(yaml.YAMLError):
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if isinstance(node, yaml.ScalarNode) and node.style is None:
                # A plain scalar ends at " #"; a shell argument has no comments.
                return cls(construct(node), text, text.strip().lower() in NULLS, origin)
            if node is not None:
                return cls.from_node(node, origin)
        return cls(text, text, text.strip().lower() in NULLS, origin)

    @classmethod
    def from_node(cls, node: yaml.Node, origin: str) -> Given:
        """A value in a YAML file.

        Raises:
            ConfigError: a tag or a reference that plain data cannot have.
        """
        try:
            value = construct(node)
        except (yaml.YAMLError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"cannot read a value: {reason}", remedy=f"see {origin}") from error
        if not isinstance(node, yaml.ScalarNode):
            return cls(value, None, False, origin)
        is_null = node.style is None and node.value.lower() in NULLS
        return cls(value, node.value, is_null, origin)


def construct(node: yaml.Node) -> Any:
    """The Python value of a YAML node, by the rules of the safe loader."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except ValueError:
        # Text that looks like a date or a number, but is none.
        if isinstance(node, yaml.ScalarNode):
            return node.value
        raise
    finally:
        loader.dispose()


def structure(key: Key, given: Given) -> Any:
    """``given`` as the type of ``key``.

    Raises:
        ConfigError: it does not fit; the message says what would.
    """
    named_none = given.text is not None and given.text in key.choices
    if given.is_null and key.optional and not named_none:
        return None
    if key.type == Metadata:
        return parse_metadata(None if given.is_null else given.value)
    if key.type is Adapter:
        return parse_adapter(given.value if given.text is None else given.text)
    value = given.value
    if given.text is not None and (key.type is str or given.text in key.choices):
        value = given.text
    if given.is_null and key.type is str:
        value = None
    try:
        return _converter.structure(value, key.type)
    except (TypeError, ValueError) as error:
        shown = "nothing" if given.is_null else repr(given.text if given.text else given.value)
        raise ConfigError(
            f"{key.name}: expected {key.expected}, got {shown} (from {given.origin})"
        ) from error


def _strict(accepted: type) -> Any:
    def structure_one(value: Any, _: Any) -> Any:
        if type(value) is not accepted:
            raise TypeError(f"{value!r} is not {accepted.__name__}")
        return value

    return structure_one


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a number")
    # YAML reads 1e-5 as text: its floats need a dot.
    return float(value)


def _list(value: Any, hint: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    inner = hint.__args__[0] if get_origin(hint) else Any
    return [_converter.structure(each, inner) for each in value]


def _mapping(value: Any, _: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r} is not a mapping")
    return dict(value)


def _literal(value: Any, hint: Any) -> Any:
    if value not in get_args(hint):
        raise ValueError(f"{value!r} is no choice")
    return value


def _is_literal(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin is Literal


def _is_a(kind: type) -> Any:
    def check(hint: Any) -> bool:
        origin = get_origin(hint) or hint
        return isinstance(origin, type) and issubclass(origin, kind) and origin is not str

    return check


_converter = cattrs.Converter(detailed_validation=False)
for _type in (bool, int, str):
    _converter.register_structure_hook(_type, _strict(_type))
_converter.register_structure_hook(float, _float)
_converter.register_structure_hook_func(_is_literal, _literal)
_converter.register_structure_hook_func(_is_a(Sequence), _list)
_converter.register_structure_hook_func(_is_a(Mapping), _mapping)
