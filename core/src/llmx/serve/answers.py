"""Answers as OpenAI's API spells them, whole and in pieces."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from llmx.run.generate import Generation

FINISH = {"end": "stop", "stop": "stop", "max_new_tokens": "length", "context": "length"}
DONE = "data: [DONE]\n\n"


class Answer(ABC):
    """An answer to a request; subclasses know how it is spelled."""

    PREFIX: ClassVar[str]
    WHOLE: ClassVar[str]
    PIECE: ClassVar[str]

    def __init__(self, model: str) -> None:
        """Give it an id and a date."""
        self._head = {
            "id": f"{self.PREFIX}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, generation: Generation) -> dict[str, Any]:
        """The answer in one object."""
        choice = {**self._whole(generation.text), **_ending(generation)}
        return {**self._head, "object": self.WHOLE, "choices": [choice], "usage": usage(generation)}

    def piece(self, text: str) -> dict[str, Any]:
        """A piece of a streamed answer."""
        return self._chunk([{**self._piece(text), "index": 0, "finish_reason": None}])

    def opening(self) -> list[dict[str, Any]]:
        """What is sent before the first piece."""
        return []

    def closing(self, generation: Generation, *, include_usage: bool) -> list[dict[str, Any]]:
        """What is sent after the last piece."""
        chunks = [self._chunk([{**self._nothing(), **_ending(generation)}])]
        if include_usage:
            chunks.append({**self._chunk([]), "usage": usage(generation)})
        return chunks

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self.PIECE, "choices": choices}

    @abstractmethod
    def _whole(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _piece(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _nothing(self) -> dict[str, Any]: ...


class ChatAnswer(Answer):
    """Of ``/v1/chat/completions``."""

    PREFIX = "chatcmpl"
    WHOLE = "chat.completion"
    PIECE = "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])]

    def _whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _piece(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}}

    def _nothing(self) -> dict[str, Any]:
        return {"delta": {}}


class CompletionAnswer(Answer):
    """Of ``/v1/completions``."""

    PREFIX = "cmpl"
    WHOLE = PIECE = "text_completion"

    def _whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _piece(self, text: str) -> dict[str, Any]:
        return {"text": text, "logprobs": None}

    def _nothing(self) -> dict[str, Any]:
        return {"text": ""}


def usage(generation: Generation) -> dict[str, Any]:
    """Counts of tokens."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.generated_tokens,
        "total_tokens": generation.prompt_tokens + generation.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
    }


def event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content)}\n\n"


def _ending(generation: Generation) -> dict[str, Any]:
    return {"index": 0, "logprobs": None, "finish_reason": FINISH[generation.stop_reason]}
