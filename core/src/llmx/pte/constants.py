"""The constant methods of a program: what they return, and other values in their places."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path

from llmx.pte.flatbuffer import Buffer, MalformedError
from llmx.pte.layout import PLANS, read_layout
from llmx.pte.methods import Constant, Method

Constants = Mapping[str, Constant | tuple[Constant, ...]]


def constants_of(methods: Iterable[Method]) -> Constants:
    """What constant methods return, by name: a single value or several."""
    return {
        each.name: found[0] if len(found) == 1 else found
        for each in methods
        if (found := each.constants) is not None
    }


def read_constants(path: Path) -> Constants:
    """The same of a program file.

    Raises:
        MalformedError: it is no program, or damaged.
    """
    with mapped(path) as data:
        return constants_of(_methods(data))


def overwrite_constants(path: Path, name: str, values: Mapping[int, int]) -> None:
    """Change what the constant method ``name`` returns, in place: output index to new value.

    Raises:
        MalformedError: there is no such output, or its value is 0, for which nothing is stored.
    """
    places = {}
    with mapped(path) as data:
        method = _named(data, name)
        for output in values:
            at = method.constant_at(output)
            if at is None:
                raise MalformedError(f"output {output} of {name} is 0, which is not stored")
            places[output] = at
    _write(path, {places[output]: struct.pack("<q", value) for output, value in values.items()})


def overwrite_text(path: Path, name: str, text: str) -> None:
    """Change the text that the constant method ``name`` returns, in place, to one as long.

    Raises:
        MalformedError: it returns no text, or one of another length.
    """
    content = text.encode()
    with mapped(path) as data:
        start, length = _named(data, name).text_at(0)
    if length != len(content):
        raise MalformedError(f"{name} returns a text of {length} bytes, not {len(content)}")
    _write(path, {start: content})


@contextmanager
def mapped(path: Path) -> Iterator[Buffer]:
    """A file's bytes without reading them all; an empty one has none."""
    with path.open("rb") as file:
        try:
            mapping = mmap(file.fileno(), 0, access=ACCESS_READ)
        except ValueError:
            yield b""  # an empty file cannot be mapped
            return
        with mapping:
            yield mapping


def _methods(data: Buffer) -> Iterator[Method]:
    return map(Method, read_layout(data).root.tables(PLANS))


def _named(data: Buffer, name: str) -> Method:
    method = next((each for each in _methods(data) if each.name == name), None)
    if method is None:
        raise MalformedError(f"it has no method {name}")
    return method


def _write(path: Path, contents: Mapping[int, bytes]) -> None:
    with path.open("r+b") as file:
        for at, content in contents.items():
            file.seek(at)
            file.write(content)
