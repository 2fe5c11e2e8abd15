"""The name ``stories110m``, by which older configuration files call that size of Llama 2."""

from __future__ import annotations

from collections.abc import Mapping

from llmx import ModelSize, hookimpl
from llmx_plugin_llama.llama2 import SIZES, convert_weights, default_backend, token_ids

__all__ = ["convert_weights", "default_backend", "sizes", "token_ids"]


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return {"110m": SIZES["stories110m"]}
