"""``base.metadata``: constants that the program offers as methods of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from llmx.errors import ConfigError

MetadataValue = bool | int | float | str | list[int]
Metadata = Mapping[str, MetadataValue]

KEY = "base.metadata"
INT64 = range(-(2**63), 2**63)


def parse_metadata(value: Any) -> Metadata:
    """The mapping that ``value`` holds: a mapping, JSON text of one, or nothing.

    Raises:
        ConfigError: bad JSON, or an entry that a program cannot return.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        value = _from_json(value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{KEY}: expected a mapping of names to values, got {value!r}",
            remedy=f"""for example {KEY}='{{"get_bos_id": 1, "get_eos_ids": [2]}}'""",
        )
    return {_checked_name(name): _checked_value(name, each) for name, each in value.items()}


def _from_json(text: str) -> Any:
    try:
        value = json.loads(text)
        # Quoting for the older tool's command line leaves JSON text inside a JSON string.
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{KEY} is not valid JSON: {error.msg} at column {error.colno}: {text}",
            remedy="write it as a YAML mapping in a config file, without quotes",
        ) from error


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name or name == "forward":
        raise ConfigError(f"{KEY}: {name!r} cannot be the name of a constant method")
    return name


def _checked_value(name: str, value: Any) -> MetadataValue:
    match value:
        case bool() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case int() if value in INT64:
            return value
        case list() | tuple() if all(_is_int64(each) for each in value):
            return list(value)
    raise ConfigError(
        f"{KEY}: {name} cannot be {value!r}",
        remedy="a value is true, false, a number, text or a list of whole numbers",
    )


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in INT64
