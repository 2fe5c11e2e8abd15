"""A conversation says what a fresh process would say, turn after turn."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from llmx.errors import UserError
from llmx.run.chat import Conversation
from llmx.run.generate import TextGenerator

from .conftest import CONTEXT, END, Model

TURNS = ("hello", "what is paris?", "the city")


@pytest.fixture
def chatty(decoder: Model, artifact: Callable[..., Path]) -> Path:
    return artifact(decoder.program)


def test_each_answer_is_that_of_a_fresh_model_given_the_whole_conversation(chatty: Path) -> None:
    conversation = Conversation(TextGenerator.open(chatty), system="brief")
    for text in TURNS:
        before = conversation.messages
        answer = conversation.say(text, max_new_tokens=6).text
        question = {"role": "user", "content": text}
        fresh = TextGenerator.open(chatty).reply([*before, question], max_new_tokens=6)
        assert answer == fresh.text
        assert conversation.messages == [
            *before, question, {"role": "assistant", "content": answer}
        ]  # fmt: skip


def test_the_kv_cache_is_kept_where_the_conversation_goes_on(
    recite: Callable[..., Path], artifact: Callable[..., Path], ids: Callable[[str], list[int]]
) -> None:
    prompt = ids("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
    chatty = artifact(recite([*ids("paris"), END], after=len(prompt)))
    conversation = Conversation(TextGenerator.open(chatty))
    first = conversation.say("hello")
    assert (first.text, first.stop_reason, first.cached_tokens) == ("paris", "end", 0)
    assert conversation.say("city").cached_tokens == len(prompt) + len(ids("paris"))


def test_a_reset_forgets(chatty: Path) -> None:
    conversation = Conversation(TextGenerator.open(chatty))
    first = conversation.say("hello", max_new_tokens=6).text
    conversation.say("paris", max_new_tokens=6)
    conversation.reset()
    assert conversation.messages == []
    assert conversation.say("hello", max_new_tokens=6).text == first
    conversation.reset(system="city")
    assert conversation.messages == [{"role": "system", "content": "city"}]


def test_an_interrupted_answer_is_kept_and_the_conversation_goes_on(chatty: Path) -> None:
    conversation = Conversation(TextGenerator.open(chatty))
    generation = conversation.say("hello", on_text=lambda piece: signal.raise_signal(signal.SIGINT))
    assert generation.stop_reason == "interrupted"
    assert conversation.messages[-1] == {"role": "assistant", "content": generation.text}
    before = conversation.messages
    answer = conversation.say("paris", max_new_tokens=6).text
    fresh = TextGenerator.open(chatty).reply(
        [*before, {"role": "user", "content": "paris"}], max_new_tokens=6
    )
    assert answer == fresh.text


def test_a_conversation_that_outgrows_the_context_stays_as_it_was(chatty: Path) -> None:
    conversation = Conversation(TextGenerator.open(chatty))
    conversation.say("hello", max_new_tokens=4)
    before = conversation.messages
    with pytest.raises(UserError, match=f"context is {CONTEXT} tokens"):
        conversation.say("x" * CONTEXT)
    assert conversation.messages == before
    assert conversation.say("paris", max_new_tokens=4).generated_tokens == 4


def test_nothing_said_is_refused(chatty: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        Conversation(TextGenerator.open(chatty)).say(" \n")
