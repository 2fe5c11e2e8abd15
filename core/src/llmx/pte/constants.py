"""Write other integers into the constant methods of a program."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from llmx.pte.flatbuffer import MalformedError
from llmx.pte.layout import PLANS, read_layout
from llmx.pte.methods import Method


def overwrite_constants(path: Path, name: str, values: Mapping[int, int]) -> None:
    """Change what the constant method ``name`` returns, in place: output index to new value.

    Raises:
        MalformedError: there is no such output, or its value is 0, for which nothing is stored.
    """
    data = path.read_bytes()
    plans = map(Method, read_layout(data).root.tables(PLANS))
    method = next((each for each in plans if each.name == name), None)
    if method is None:
        raise MalformedError(f"it has no method {name}")
    with path.open("r+b") as file:
        for output, value in values.items():
            at = method.constant_at(output)
            if at is None:
                raise MalformedError(f"output {output} of {name} is 0, which is not stored")
            file.seek(at)
            file.write(struct.pack("<q", value))
