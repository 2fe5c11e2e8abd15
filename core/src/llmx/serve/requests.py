"""What clients may ask for.

Source: https://platform.openai.com/docs/api-reference. A field that cannot be honoured is refused,
unless it asks for nothing or is about the service and not about the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from llmx.serve.errors import refused
from llmx.serve.fields import Fields, flag, integer, mapping, number, text, texts

MOST_STOPS = 16
HOTTEST = 2.0
SHORT = 16  # tokens of a completion unless said otherwise, as OpenAI has it
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
ABOUT_THE_SERVICE = (
    "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "parallel_tool_calls",
)  # fmt: skip
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "store": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
}


@frozen
class Asked:
    """How an answer is to be made.

    Attributes:
        max_new_tokens: ``None`` goes on to the end of the context.
        sampling: fields of ``Sampling`` that the client chose.
        stream: send the answer as it is made; ``include_usage``: and the counts at its end.
    """

    model: str
    max_new_tokens: int | None
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]
    stream: bool
    include_usage: bool


def parse_chat(content: Mapping[str, Any]) -> tuple[list[dict[str, str]], Asked]:
    """The messages of a chat completion, and how to answer them.

    Raises:
        ApiError: a field is missing, wrong, or asks for what this server does not do.
    """
    fields = Fields(content)
    messages = fields.require("messages", _messages)
    older = fields.take("max_tokens", integer(1), None)
    asked = _asked(fields, fields.take("max_completion_tokens", integer(1), older))
    return messages, asked


def parse_completion(content: Mapping[str, Any]) -> tuple[str, Asked]:
    """The text of a completion, and how to continue it.

    Raises:
        ApiError: as :func:`parse_chat`.
    """
    fields = Fields(content)
    prompt = fields.require("prompt", _prompt)
    return prompt, _asked(fields, fields.take("max_tokens", integer(1), SHORT))


def _asked(fields: Fields, max_new_tokens: int | None) -> Asked:
    chosen = {
        "temperature": fields.take("temperature", number(0, HOTTEST), None),
        "top_p": fields.take("top_p", number(0.001, 1), None),
        "seed": fields.take("seed", integer(), None),
        # Not in OpenAI's API, but usual among servers of open models.
        "top_k": fields.take("top_k", integer(0), None),
        "repetition_penalty": fields.take("repetition_penalty", number(0.01, 10), None),
    }
    options = Fields(fields.take("stream_options", mapping, {}), "stream_options.")
    asked = Asked(
        model=fields.require("model", text),
        max_new_tokens=max_new_tokens,
        stop=fields.take("stop", texts(MOST_STOPS), ()),
        sampling={name: value for name, value in chosen.items() if value is not None},
        stream=fields.take("stream", flag, False),
        include_usage=options.take("include_usage", flag, False),
    )
    options.skip("include_obfuscation")
    options.end()
    fields.skip(*ABOUT_THE_SERVICE)
    for name, neutral in NEUTRAL.items():
        fields.allow_only(name, *neutral)
    fields.end()
    return asked


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise refused(f"{name} must be a list of at least one message", name)
    return [_message(f"{name}[{index}]", each) for index, each in enumerate(value)]


def _message(name: str, value: Any) -> dict[str, str]:
    fields = Fields(mapping(name, value), f"{name}.")
    role = fields.require("role", text)
    if role not in ROLES:
        raise refused(f"{name}.role must be one of {', '.join(ROLES)}", f"{name}.role")
    message = {"role": ROLES[role], "content": fields.require("content", _content)}
    speaker = fields.take("name", text, None)
    if speaker is not None:
        message["name"] = speaker
    fields.end()
    return message


def _content(name: str, value: Any) -> str:
    """A string, or a list of parts that are all text."""
    if not isinstance(value, list):
        return text(name, value)
    parts = []
    for index, each in enumerate(value):
        fields = Fields(mapping(f"{name}[{index}]", each), f"{name}[{index}].")
        if fields.require("type", text) != "text":
            raise refused(f"{name}[{index}] is not text, which is all that is understood", name)
        parts.append(fields.require("text", text))
        fields.end()
    return "\n".join(parts)


def _prompt(name: str, value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise refused(f"{name} must be one string; token ids and batches are not supported", name)
    return value
