"""``multimethod.methods``: one program with a method for each adapter, or length of calls."""

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
PREFILL = "get_prefill_method"
"""A program's method that tells which other one reads prompts, where ``forward`` takes one token.
"""


@frozen(kw_only=True)
class Method:
    """One method of the program; field names are those of ExecuTorch's ``MethodConfig``.

    Attributes:
        method_name: what it is called by.
        lora_config: the adapter that it computes with; ``None`` is the model as it is.
        export_seq_len: tokens of each of its calls, where shapes are static; ``None`` is what
            the job says of all calls.
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
    length = value.get("export_seq_len")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ConfigError(f"{KEY}.export_seq_len of {name} is {length!r}; it is a number of tokens")
    return Method(
        method_name=name,
        lora_config=parse_adapter(value.get("lora_config")),
        export_seq_len=length,
    )


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


def check_lengths(methods: Sequence[Method], *, dynamic: bool, shared_state: bool) -> None:
    """Raise :class:`ConfigError` for lengths of calls that no program has.

    Args:
        dynamic: whether calls may have any length.
        shared_state: whether a method knows what another one was given.
    """
    longer = [each for each in methods if each.export_seq_len is not None]
    if longer and dynamic:
        raise ConfigError(
            f"{KEY}.export_seq_len of {longer[0].method_name}: calls have any length",
            remedy="use model.enable_dynamic_shape=false, or leave it out",
        )
    longer = [each for each in longer if each.export_seq_len != 1]
    for each in longer:
        if each.method_name == FORWARD:
            raise ConfigError(
                f"{KEY}.export_seq_len of {FORWARD} is {each.export_seq_len}: runners call it "
                "with one token",
                remedy="use 1, and another method for the prompt",
            )
        if each.lora_config is not None:
            raise ConfigError(
                f"{KEY}: {each.method_name} has an adapter and calls of {each.export_seq_len} "
                "tokens",
                remedy="merge the adapter with base.lora_config, or leave export_seq_len out",
            )
    if len(longer) > 1:
        raise ConfigError(
            f"{KEY}: {' and '.join(each.method_name for each in longer)} both read prompts",
            remedy="leave one of them out",
        )
    if longer and not shared_state:
        raise ConfigError(
            f"{KEY}: nobody else would know what {longer[0].method_name} has read",
            remedy="add multimethod.share_mutable_buffers=true",
        )


def prefill_of(methods: Sequence[Method]) -> Method | None:
    """The method that reads prompts in pieces of more than one token, where shapes are static."""
    return next((each for each in methods if (each.export_seq_len or 1) > 1), None)
