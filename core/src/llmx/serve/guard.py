"""What is checked before a request is looked at: where it is addressed to, and its API key."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmx.serve.errors import ApiError, refused

LARGEST_BODY = 1 << 20  # bytes
SLOWEST_BODY = 30.0  # seconds
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets those requests pass that are meant for this server and carry its key.

    A web page of anybody can have a browser send requests to this machine, and with a host name
    that suddenly means the loopback address (DNS rebinding) even read the answers. So the name has
    to be one that the server goes by.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str] | None, api_key: str | None) -> None:
        """Guard ``app``.

        Args:
            hosts: names that the server may be addressed by; ``None`` allows all.
            api_key: needed for everything under ``/v1/``; ``None`` needs none.
        """
        self._app = app
        self._hosts = hosts
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            await json_error(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            raise ApiError(421, "this server goes by another name; use its address")
        if self._key is None or not path.startswith("/v1/"):
            return
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._key):
            raise ApiError(
                401,
                "the API key is missing or wrong",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def _host(address: str) -> str:
    """The name in a ``Host`` header, without the port."""
    if address.startswith("["):
        return address.partition("]")[0] + "]"
    return address.partition(":")[0].lower()


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON in ASCII: what clients sent and we repeat may be no valid UTF-8."""
    return Response(
        json.dumps(content),
        status,
        headers=headers and dict(headers),
        media_type="application/json",
    )


def json_error(error: ApiError) -> Response:
    """An error's response."""
    return json_response(error.body(), error.status, error.headers)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body.

    Browsers send other types than JSON to other people's servers without asking them.

    Raises:
        ApiError: it is none, too large, or did not come in time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    raise ApiError(
                        413,
                        f"the body is larger than {LARGEST_BODY} bytes",
                        headers={"Connection": "close"},
                    )
    except TimeoutError:
        raise ApiError(408, "the body did not come", headers={"Connection": "close"}) from None
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise refused("the body is not valid JSON") from None
    if not isinstance(content, dict):
        raise refused("the body must be a JSON object")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
