"""What a job says about the tokens that layers attend to, and what contradicts it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmx.errors import ConfigError
from llmx.model.params import Sinks

if TYPE_CHECKING:
    from llmx.config.schema import ExportOptions, ModelOptions

SINK_KEY = "model.use_attention_sink"
WINDOWS_KEY = "model.local_global_attention"
SINK_PATTERN = re.compile(r"\s*(\d+)\s*,\s*(\d+)\s*")
CACHE_ADVICE = "add model.use_kv_cache=true"


def attention_sinks(model: ModelOptions) -> Sinks | None:
    """What ``model.use_attention_sink`` says.

    Raises:
        ConfigError: it is not two numbers, or they make no sense.
    """
    text = model.use_attention_sink
    if text is None:
        return None
    match = SINK_PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{SINK_KEY} {text!r} is not '<sink>,<window>'",
            remedy="for example 4,2044; tokens that leave the window are dropped one by one, "
            "so there is no third number",
        )
    sinks, window = int(match[1]), int(match[2])
    if sinks < 1 or window < 1:
        raise ConfigError(
            f"{SINK_KEY} {text}: sink and window must both be at least 1 token",
            remedy=f"for a window without sinks use {WINDOWS_KEY}=[{window}]"
            if window
            else "for example 4,2044",
        )
    return Sinks(sinks, window)


def check_context(model: ModelOptions, export: ExportOptions) -> None:
    """Raise :class:`ConfigError` for what contradicts in caches, windows and sinks."""
    if not model.use_kv_cache:
        for key, value in (
            ("model.quantize_kv_cache", model.quantize_kv_cache),
            (SINK_KEY, model.use_attention_sink),
            (WINDOWS_KEY, model.local_global_attention),
        ):
            if value:
                raise ConfigError(f"{key} needs model.use_kv_cache", remedy=CACHE_ADVICE)
    _check_windows(model)
    sinks = attention_sinks(model)
    if sinks is None:
        return
    if model.local_global_attention is not None:
        raise ConfigError(
            f"{SINK_KEY} {model.use_attention_sink} contradicts {WINDOWS_KEY}: "
            "sinks are in every layer's window",
            remedy="leave one of them out",
        )
    context = export.max_context_length
    if context is not None and context < sinks.tokens:
        raise ConfigError(
            f"export.max_context_length {context} is shorter than sink and window of "
            f"{SINK_KEY} {model.use_attention_sink}, {sinks.tokens} tokens",
            remedy="it is the length of the longest text here: leave it out, or raise it",
        )


def _check_windows(model: ModelOptions) -> None:
    windows = model.local_global_attention
    if windows is None:
        return
    if not windows or any(each < 0 for each in windows):
        raise ConfigError(
            f"{WINDOWS_KEY} is {windows}; it must have one window or more, in tokens, 0 for global",
            remedy="for example [0,128]: every other layer attends to 128 tokens",
        )
