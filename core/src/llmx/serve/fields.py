"""Fields of a JSON object, taken one by one: what is wrong is named, what is left is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llmx.serve.errors import refused

T = TypeVar("T")
Check = Callable[[str, Any], T]
SHOWN = 60  # characters of what a client sent that go into an error


class Fields:
    """A JSON object; a field that is ``null`` counts as absent."""

    def __init__(self, content: Mapping[str, Any], where: str = "") -> None:
        """Begin with all fields left; ``where`` comes before their names in errors."""
        self._left = {name: value for name, value in content.items() if value is not None}
        self._where = where

    def take(self, name: str, check: Check[T], default: T) -> T:
        """The field's value, checked.

        Raises:
            ApiError: it is not what ``check`` wants.
        """
        if name not in self._left:
            return default
        return check(f"{self._where}{name}", self._left.pop(name))

    def require(self, name: str, check: Check[T]) -> T:
        """The same for a field that must be there."""
        if name not in self._left:
            raise refused(f"{self._where}{name} is missing", f"{self._where}{name}")
        return check(f"{self._where}{name}", self._left.pop(name))

    def skip(self, *names: str) -> None:
        """Fields that change nothing about the answer."""
        for name in names:
            self._left.pop(name, None)

    def allow_only(self, name: str, *neutral: Any) -> None:
        """A field that is honoured only where it asks for nothing."""
        value = self._left.pop(name, neutral[0])
        if value not in neutral:
            raise refused(
                f"{self._where}{name} is not supported; leave it out", f"{self._where}{name}"
            )

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in self._left:
            shown = f"{self._where}{name[:SHOWN]}"
            raise refused(f"{shown} is not supported", shown)


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise refused(f"{name} must be a string", name)
    return value


def flag(name: str, value: Any) -> bool:
    """A boolean."""
    if not isinstance(value, bool):
        raise refused(f"{name} must be true or false", name)
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise refused(f"{name} must be an object", name)
    return value


def integer(low: int | None = None, high: int | None = None) -> Check[int]:
    """A whole number within bounds."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise refused(f"{name} must be an integer", name)
        return int(_within(name, value, low, high))

    return check


def number(low: float, high: float) -> Check[float]:
    """A number within bounds."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise refused(f"{name} must be a number", name)
        return float(_within(name, value, low, high))

    return check


def texts(most: int) -> Check[tuple[str, ...]]:
    """A string, or a list of up to ``most``; none of them empty."""

    def check(name: str, value: Any) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise refused(f"{name} must be a string or a list of strings", name)
        if len(values) > most or "" in values:
            raise refused(f"{name} takes up to {most} strings, none of them empty", name)
        return tuple(values)

    return check


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _within(name: str, value: float, low: float | None, high: float | None) -> float:
    if low is not None and value < low:
        raise refused(f"{name} must be at least {low}", name)
    if high is not None and value > high:
        raise refused(f"{name} must be at most {high}", name)
    return value
