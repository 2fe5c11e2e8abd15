"""``base.lora_config``: a LoRA adapter that is added to the model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from llmx.errors import ConfigError
from llmx.names import did_you_mean

KEY = "base.lora_config"


@frozen(kw_only=True)
class Adapter:
    """Where the adapter is; field names are those of ExecuTorch's ``LoraConfig``.

    Attributes:
        adapter_checkpoint: the weight file, or the folder that PEFT wrote.
        adapter_config: ``adapter_config.json``; ``None`` looks beside the weights.
        lora_rank, lora_alpha: for adapters without such a file.
        target_modules: the layers that it may change, by the last part of their names; empty for
            what the file says.
        adapter_quant: float type of an adapter that stays apart.
    """

    adapter_checkpoint: str
    adapter_config: str | None = None
    lora_rank: int = 0
    lora_alpha: float = 0
    target_modules: tuple[str, ...] = ()
    adapter_quant: str | None = None


def parse_adapter(value: Any) -> Adapter | None:
    """The adapter that ``value`` describes: a path, a mapping of the fields, or nothing.

    Raises:
        ConfigError: an unknown field, or a value of the wrong type.
    """
    if value is None or isinstance(value, Adapter):
        return value
    if isinstance(value, str):
        return Adapter(adapter_checkpoint=value)
    if not isinstance(value, Mapping) or not value.get("adapter_checkpoint"):
        raise ConfigError(
            f"{KEY}: expected a path or a mapping with adapter_checkpoint, got {value!r}",
            remedy=f"for example {KEY}=path/to/adapter",
        )
    fields = attrs.fields_dict(Adapter)
    for name in value:
        if name not in fields:
            raise ConfigError(f"unknown key {KEY}.{name}{did_you_mean(str(name), fields)}")
    given = {name: each for name, each in value.items() if each is not None}
    given["target_modules"] = _names(given.get("target_modules", ()))
    for name in ("adapter_checkpoint", "adapter_config", "adapter_quant"):
        if name in given and not isinstance(given[name], str):
            raise ConfigError(f"{KEY}.{name}: expected text, got {given[name]!r}")
    for name in ("lora_rank", "lora_alpha"):
        number = given.get(name, 0)
        if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
            raise ConfigError(f"{KEY}.{name}: expected a number from 0 up, got {number!r}")
    return Adapter(**given)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ConfigError(f"{KEY}.target_modules: expected a list of texts, got {value!r}")
