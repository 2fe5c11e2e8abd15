"""The server's addresses, and what happens at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import attrs
from attrs import frozen
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmx.errors import LlmxError, UserError
from llmx.run.generate import Generation, TextGenerator
from llmx.run.interrupt import Interrupt
from llmx.serve.answers import DONE, Answer, ChatAnswer, CompletionAnswer, event
from llmx.serve.errors import ApiError, of_user_error
from llmx.serve.guard import Guard, json_error, json_response, read_json
from llmx.serve.page import PAGE, POLICY
from llmx.serve.requests import Asked, parse_chat, parse_completion
from llmx.serve.turns import Turns, Work

T = TypeVar("T")
Events = AsyncGenerator[str | Generation, None]
GONE = 499  # nobody reads it


@frozen
class Served:
    """A model and how it is served.

    Attributes:
        name: what clients call it.
        created: when it was exported, in seconds since 1970.
        most_new_tokens: longest answer that a client can have; ``None`` is the context's length.
        report: called after each answer.
        complain: called when the model failed; clients are told no more than that it did.
    """

    model: TextGenerator
    name: str
    created: int
    most_new_tokens: int | None
    report: Callable[[Generation], None]
    complain: Callable[[LlmxError], None]


def create_app(
    served: Served, turns: Turns, *, hosts: frozenset[str] | None, api_key: str | None
) -> Starlette:
    """The application; ``hosts`` and ``api_key`` are those of :class:`Guard`."""
    api = Api(served, turns)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        turns.close()

    return Starlette(
        routes=[
            Route("/", api.page),
            Route("/health", api.health),
            Route("/v1/models", api.models),
            Route("/v1/models/{name:path}", api.model),
            Route("/v1/chat/completions", api.chat, methods=["POST"]),
            Route("/v1/completions", api.complete, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts, api_key=api_key)],
        exception_handlers={
            ApiError: lambda _, error: json_error(error),
            UserError: lambda _, error: json_error(of_user_error(error)),
            LlmxError: lambda _, error: json_error(_model_failed()),
            HTTPException: _http_error,
            ClientDisconnect: lambda _, error: Response(status_code=GONE),
            Exception: lambda _, error: json_error(ApiError(500, "internal error")),
        },
        lifespan=lifespan,
    )


class Api:
    """Handlers of requests."""

    def __init__(self, served: Served, turns: Turns) -> None:
        self._served = served
        self._turns = turns

    async def page(self, request: Request) -> Response:
        """A page to chat in the browser."""
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    async def health(self, request: Request) -> Response:
        """For those who watch over the process."""
        return json_response({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """The one model that there is."""
        return json_response({"object": "list", "data": [self._describe()]})

    async def model(self, request: Request) -> Response:
        """The same, by its name."""
        self._check_name(request.path_params["name"])
        return json_response(self._describe())

    async def chat(self, request: Request) -> Response:
        """The next message of a conversation."""
        messages, asked = parse_chat(await read_json(request))
        work = partial(self._served.model.reply, messages)
        return await self._answer(request, work, asked, ChatAnswer(self._served.name))

    async def complete(self, request: Request) -> Response:
        """The continuation of a text."""
        prompt, asked = parse_completion(await read_json(request))
        work = partial(self._served.model.complete, prompt)
        return await self._answer(request, work, asked, CompletionAnswer(self._served.name))

    async def _answer(
        self, request: Request, work: Callable[..., Generation], asked: Asked, answer: Answer
    ) -> Response:
        self._check_name(asked.model)
        events = self._turns.run(self._work(work, asked))
        # What goes wrong before the first piece can still be told by the status.
        first = await _unless_gone(request.receive, anext(events))
        if asked.stream:
            return _EventStream(_spelled(first, events, answer, asked), events)
        generation = await _unless_gone(request.receive, _outcome(first, events))
        return json_response(answer.whole(generation))

    def _work(self, work: Callable[..., Generation], asked: Asked) -> Work:
        served = self._served
        limits = [each for each in (asked.max_new_tokens, served.most_new_tokens) if each]
        arguments: Mapping[str, Any] = {
            "max_new_tokens": min(limits, default=None),
            "stop": asked.stop,
            "sampling": attrs.evolve(served.model.sampling, **asked.sampling),
        }

        def run(tell: Callable[[str], None], interrupt: Interrupt) -> Generation:
            try:
                generation = work(**arguments, on_text=tell, interrupt=interrupt)
            except UserError:
                raise
            except LlmxError as error:
                served.complain(error)
                raise
            served.report(generation)
            return generation

        return run

    def _describe(self) -> dict[str, Any]:
        served = self._served
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "llmx",
            "context_length": served.model.context_length,
        }

    def _check_name(self, name: str) -> None:
        if name != self._served.name:
            raise ApiError(
                404,
                f"no such model here; there is {self._served.name}",
                param="model",
                code="model_not_found",
            )


async def _outcome(first: str | Generation, events: Events) -> Generation:
    outcome = first
    async for each in events:
        outcome = each
    assert isinstance(outcome, Generation)
    return outcome


async def _spelled(
    first: str | Generation, events: Events, answer: Answer, asked: Asked
) -> AsyncIterator[str]:
    """The server-sent events of a streamed answer."""
    for chunk in answer.opening():
        yield event(chunk)
    try:
        async for each in _chain(first, events):
            if isinstance(each, str):
                yield event(answer.piece(each))
                continue
            for chunk in answer.closing(each, include_usage=asked.include_usage):
                yield event(chunk)
    except ApiError as error:
        yield event(error.body())
    except LlmxError:
        yield event(_model_failed().body())
    else:
        yield DONE


async def _chain(first: str | Generation, events: Events) -> AsyncIterator[str | Generation]:
    yield first
    async for each in events:
        yield each


class _EventStream(StreamingResponse):
    """Ends the work when the client goes away or everything is sent."""

    def __init__(self, content: AsyncIterator[str], events: Events) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientDisconnect):
                await _unless_gone(receive, self.stream_response(send))
        finally:
            await self._events.aclose()


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives; it is cancelled when the client closes the connection.

    Raises:
        ClientDisconnect: the client did.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnection(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _model_failed() -> ApiError:
    return ApiError(500, "the model failed on this prompt")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_error(ApiError(error.status_code, error.detail, headers=error.headers))
