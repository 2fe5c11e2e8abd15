"""Errors that a person can act on: what went wrong, where, and what to do next."""

from __future__ import annotations


class LlmxError(Exception):
    """Base of all errors that llmx raises on purpose.

    Args:
        message: one line that says what is wrong and where.
        remedy: one line that says what to do next, if anything can be done.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UserError(LlmxError):
    """The input cannot be used as it is; nothing was written. Exit code 2."""

    exit_code = 2


class ConfigError(UserError):
    """A key, value or combination of options that cannot be honoured."""


class PluginError(UserError):
    """A family or backend that is unknown, broken or installed twice."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read or does not match the model."""


class ArtifactError(UserError):
    """An output folder that cannot be written, or an artifact that cannot be read."""


class LoweringError(LlmxError):
    """The model could not be lowered; the cause is chained."""
