"""Errors that a client of the server sees, in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx.errors import UserError
from llmx.run.tokens import PromptTooLongError


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one sentence; tells nothing of the server's files.
        param: the field of the request that it is about.
        code: short name that programs can check.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON that goes to the client."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def refused(message: str, param: str | None = None) -> ApiError:
    """The request makes no sense, or asks for what this server does not do."""
    return ApiError(400, message, param=param)


def of_user_error(error: UserError) -> ApiError:
    """The model cannot answer this prompt."""
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else None
    return ApiError(400, error.message, code=code)
