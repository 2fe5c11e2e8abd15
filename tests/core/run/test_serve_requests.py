"""Requests are understood, or refused with the name of the field."""

from __future__ import annotations

from typing import Any

import pytest

from llmx.serve.errors import ApiError
from llmx.serve.requests import parse_chat, parse_completion

HELLO = {"role": "user", "content": "hello"}
CHAT = {"model": "m", "messages": [HELLO]}


def test_what_is_not_said_is_left_to_the_model() -> None:
    messages, asked = parse_chat({**CHAT, "temperature": None, "stop": None})
    assert messages == [HELLO]
    assert (asked.max_new_tokens, asked.stop, asked.sampling) == (None, (), {})
    assert not asked.stream


def test_everything_may_be_said() -> None:
    sampling = {"temperature": 1.5, "top_p": 0.5, "seed": -4, "top_k": 3, "repetition_penalty": 1.1}
    _, asked = parse_chat(
        {
            **CHAT, **sampling, "stop": "x", "max_tokens": 9, "max_completion_tokens": 5,
            "stream": True, "stream_options": {"include_usage": True},
        }
    )  # fmt: skip
    assert asked.sampling == sampling
    assert (asked.stop, asked.max_new_tokens) == (("x",), 5)
    assert asked.stream
    assert asked.include_usage


def test_a_developer_is_the_system_and_names_are_kept() -> None:
    messages, _ = parse_chat(
        {"model": "m", "messages": [{"role": "developer", "content": "be brief", "name": "Ann"}]}
    )
    assert messages == [{"role": "system", "content": "be brief", "name": "Ann"}]


def test_a_completion_is_short_unless_said_otherwise() -> None:
    assert parse_completion({"model": "m", "prompt": ["once"]})[0] == "once"
    assert parse_completion({"model": "m", "prompt": "once"})[1].max_new_tokens == 16
    assert parse_completion({"model": "m", "prompt": "o", "max_tokens": 99})[1].max_new_tokens == 99


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{**HELLO, "tool_calls": [1]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"nonsense": 1}}, "stream_options.nonsense"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"nonsense": 1}, "nonsense"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as error:
        parse_chat({**CHAT, **change})
    assert (error.value.status, error.value.param) == (400, param)
    assert param in error.value.message


@pytest.mark.parametrize("prompt", [None, [], ["a", "b"], [1, 2], 7])
def test_a_prompt_is_one_text(prompt: Any) -> None:
    with pytest.raises(ApiError, match="prompt"):
        parse_completion({"model": "m", "prompt": prompt})
