"""How many tokens a program takes at once and altogether, where nobody said."""

from __future__ import annotations

from typing import Any

import pytest

from llmx.config import load_job
from llmx.lower.context import resolve_lengths
from llmx.plugins import load

CONTEXT, CALL = "export.max_context_length", "export.max_seq_length"


@pytest.mark.parametrize(
    ("settings", "context", "call"),
    [
        ({}, 2048, 256),
        ({CONTEXT: 4096}, 4096, 256),
        ({CONTEXT: 100}, 100, 100),
        ({CALL: 1024}, 2048, 1024),
        # Without what earlier calls left, a call has the whole text.
        ({"model.use_kv_cache": False, "model.use_sdpa_with_kv_cache": False}, 2048, 2048),
        ({"model.enable_dynamic_shape": False}, 2048, 2048),
    ],
)
def test_long_prompts_take_several_calls(settings: dict[str, Any], context: int, call: int) -> None:
    params = load("smollm2", None).family.default_params(size="135m")
    found = resolve_lengths(load_job(family="smollm2", settings=settings).job, params).export
    assert (found.max_context_length, found.max_seq_length) == (context, call)
