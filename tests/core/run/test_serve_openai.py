"""The official client of OpenAI's API gets what it expects from a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import openai
import pytest
from openai import OpenAI

from .conftest import CONTEXT

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TIMEOUT = 120.0  # seconds, on a busy machine


@pytest.fixture
def client(paris: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{paris}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
def locked(endless: str) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{endless}/v1", api_key="secret", max_retries=0, timeout=TIMEOUT
    ) as client:
        yield client


def test_the_model_is_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("paris", "llmx")
    assert client.models.retrieve("paris") == model
    with pytest.raises(openai.NotFoundError, match="paris"):
        client.models.retrieve("london")


def test_a_chat_is_answered(client: OpenAI, ids: Callable[[str], list[int]]) -> None:
    answer = client.chat.completions.create(model="paris", messages=HELLO)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "paris 🙂")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(ids("paris 🙂"))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(ids("paris 🙂"))


def test_a_stream_says_the_same_in_pieces(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="paris", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    *spoken, counts = chunks
    assert spoken[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in spoken]
    assert len(list(filter(None, pieces))) > 1
    assert "".join(filter(None, pieces)) == "paris 🙂"
    reasons = [chunk.choices[0].finish_reason for chunk in spoken]
    assert reasons == [None] * (len(spoken) - 1) + ["stop"]
    whole = client.chat.completions.create(model="paris", messages=HELLO).usage
    assert counts.choices == []
    assert counts.usage is not None
    assert whole is not None
    assert counts.usage.total_tokens == whole.total_tokens


def test_a_turn_uses_what_the_cache_holds_of_the_one_before(client: OpenAI) -> None:
    client.chat.completions.create(model="paris", messages=[{"role": "user", "content": "city"}])
    first = client.chat.completions.create(model="paris", messages=HELLO)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    turns = [*HELLO, said, {"role": "user", "content": "city"}]
    second = client.chat.completions.create(model="paris", messages=turns)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens


def test_the_parts_of_a_message_are_joined(client: OpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    answer = client.chat.completions.create(model="paris", messages=parts)
    assert answer.choices[0].message.content == "paris 🙂"


def test_a_text_is_continued(client: OpenAI) -> None:
    rendered = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model="paris", prompt=rendered)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("paris 🙂", "stop")
    stream = client.completions.create(model="paris", prompt=rendered, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "paris 🙂"


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"stop": "is"}, "par", "stop"),
        ({"stop": ["nowhere", " "]}, "paris", "stop"),
        ({"max_tokens": 1}, "par", "length"),
        ({"max_completion_tokens": 1}, "par", "length"),
        ({"temperature": 0.0, "top_p": 0.5, "seed": 3}, "paris 🙂", "stop"),
        ({"n": 1, "user": "me", "tools": [], "presence_penalty": 0}, "paris 🙂", "stop"),
        ({"extra_body": {"top_k": 1, "repetition_penalty": 1.0}}, "paris 🙂", "stop"),
    ],
    ids=str,
)
def test_options_are_honoured(
    client: OpenAI, options: dict[str, Any], text: str, reason: str
) -> None:
    answer = client.chat.completions.create(model="paris", messages=HELLO, **options)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == reason


def test_what_cannot_be_honoured_is_refused(client: OpenAI) -> None:
    for options in ({"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model="paris", messages=HELLO, **options)
        assert error.value.param in options


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fills_the_context_is_refused_with_figures(
    client: OpenAI, stream: bool
) -> None:
    long: Any = [{"role": "user", "content": "x" * CONTEXT}]
    with pytest.raises(openai.BadRequestError, match=f"context is {CONTEXT} tokens") as error:
        client.chat.completions.create(model="paris", messages=long, stream=stream)
    assert error.value.code == "context_length_exceeded"


def test_the_key_is_needed(endless: str) -> None:
    for key in ("wrong", "secretsecret", "s"):
        with (
            OpenAI(base_url=f"{endless}/v1", api_key=key, max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_clients_are_served_one_by_one_and_not_kept_waiting_without_end(locked: OpenAI) -> None:
    """The first talks on, the second waits, the third is sent away; the first leaves."""
    talking = locked.chat.completions.create(model="a/b", messages=HELLO, stream=True)
    next(iter(talking))
    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask, locked) for _ in range(2)]
        (refused,), (waiting,) = wait(asking, TIMEOUT, return_when=FIRST_COMPLETED)
        error = refused.exception()
        talking.close()
        assert isinstance(error, openai.RateLimitError)
        assert error.response.headers["retry-after"]
        assert waiting.result(timeout=TIMEOUT) == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_nobody_waits_for_is_given_up(locked: OpenAI, stream: bool) -> None:
    hasty = locked.with_options(timeout=2.0)
    if stream:
        chunks = hasty.chat.completions.create(model="a/b", messages=HELLO, stream=True)
        next(iter(chunks))
        chunks.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            hasty.chat.completions.create(model="a/b", messages=HELLO)
    assert ask(locked) == "length"


def ask(client: OpenAI) -> str | None:
    """A short answer's reason to end."""
    answer = client.chat.completions.create(model="a/b", messages=HELLO, max_tokens=3)
    return answer.choices[0].finish_reason
