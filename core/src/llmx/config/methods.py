"""``multimethod.methods``: one program with a method for each adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from llmx.config.adapter import Adapter, parse_adapter
from llmx.errors import ConfigError
from llmx.names import did_you_mean

KEY = "multimethod.methods"
FORWARD = "forward"
"""What runners call unless they are told otherwise."""


@frozen(kw_only=True)
class Method:
    """One method of the program; field names are those of ExecuTorch's ``MethodConfig``.

    Attributes:
        method_name: what it is called by.
        lora_config: the adapter that it computes with; ``None`` is the model as it is.
        export_seq_len: accepted as ``None`` only, since a method takes prompts of any length.
    """

    method_name: str
    lora_config: Adapter | None = None
    export_seq_len: int | None = None


def parse_methods(value: Any) -> tuple[Method, ...]:
    """The methods that a list describes: mappings of the fields.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"{KEY}: expected a list of mappings, got {value!r}")
    return tuple(each if isinstance(each, Method) else _method(each) for each in value)


def _method(value: Any) -> Method:
    name = value.get("method_name") if isinstance(value, Mapping) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"{KEY}: expected a mapping with a method_name that is an identifier, got {value!r}",
            remedy="for example {method_name: forward}",
        )
    fields = attrs.fields_dict(Method)
    for key in value:
        if key not in fields:
            raise ConfigError(f"unknown key {KEY}.{key}{did_you_mean(str(key), fields)}")
    if value.get("export_seq_len") is not None:
        raise ConfigError(
            f"{KEY}.export_seq_len of {name}: a method takes prompts of any length",
            remedy="leave it out, and see export.max_seq_length",
        )
    return Method(method_name=name, lora_config=parse_adapter(value.get("lora_config")))


def check_methods(methods: Sequence[Method]) -> None:
    """Raise :class:`ConfigError` for methods that make no program."""
    names = [each.method_name for each in methods]
    if not names:
        return
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{KEY} has {', '.join(twice)} more than once")
    if FORWARD not in names:
        raise ConfigError(
            f"{KEY} has no {FORWARD}, which is what runners call",
            remedy=f"add {{method_name: {FORWARD}}}",
        )
