"""Files beside a program that hold weights of it: which ones it needs, and what is in them.

Format: ExecuTorch's ``flat_tensor.fbs``, and ``flat_tensor_header.h`` for the header in front. A
program of llmx says by constant methods which files it needs, and what their SHA-256 is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from llmx.checkpoint.files import file_hash
from llmx.errors import ArtifactError
from llmx.pte.constants import Constants, mapped, overwrite_text, read_constants
from llmx.pte.flatbuffer import MalformedError, Table

ROLES = ("foundation", "lora")
IDENTIFIER_AT, IDENTIFIER = 4, b"FT"
MAGIC_AT, MAGIC, HEADER = 8, b"FH01", struct.Struct("<4sIQQQQ")
SEGMENTS, NAMED = 1, 2
HASH_LENGTH = 64


@frozen
class DataFile:
    """A file that a program needs beside it."""

    path: Path
    sha256: str


@frozen
class NamedBytes:
    """Where in a data file the bytes of a key are."""

    offset: int
    size: int


def announced(names: Mapping[str, str | None]) -> dict[str, str]:
    """Constant methods that tell of files, given by role; ``seal`` writes in what they hold."""
    methods = {}
    for number, role in enumerate(ROLES):
        if names[role] is not None:
            methods[_name_method(role)] = str(names[role])
            # Equal texts might be stored once.
            methods[_hash_method(role)] = str(number) * HASH_LENGTH
    return methods


def seal(program: Path) -> None:
    """Write into ``program`` what the files beside it hold."""
    told = read_constants(program)
    for role in ROLES:
        if (name := told.get(_name_method(role))) is not None:
            overwrite_text(program, _hash_method(role), file_hash(program.parent / str(name)))


def files_named(program: Path, constants: Constants) -> Sequence[DataFile]:
    """The files that a program with these constant methods needs, each once."""
    found: dict[str, DataFile] = {}
    for role in ROLES:
        name, digest = (constants.get(method(role)) for method in (_name_method, _hash_method))
        # A name that leads elsewhere is not one of llmx's.
        if isinstance(name, str) and isinstance(digest, str) and Path(name).name == name:
            found[name] = DataFile(program.parent / name, digest)
    return list(found.values())


def find_files(program: Path) -> Sequence[Path]:
    """The files beside ``program`` that it needs, once they are known to be the right ones.

    Raises:
        ArtifactError: one is not there, or is that of another export.
    """
    try:
        files = files_named(program, read_constants(program))
    except (OSError, MalformedError):
        # What is no program needs nothing; whoever loads it says so.
        return []
    for each in files:
        try:
            state = each.path.stat()
        except OSError:
            raise ArtifactError(
                f"{program} needs {each.path.name} beside it, with its weights",
                remedy="put it there, or export the model again",
            ) from None
        if _hash_of(each.path.resolve(), state.st_size, state.st_mtime_ns) != each.sha256:
            raise ArtifactError(
                f"{each.path} does not hold the weights of {program}",
                remedy=f"use the one with the SHA-256 {each.sha256}, or export the model again",
            )
    return [each.path for each in files]


def read_keys(path: Path) -> Mapping[str, NamedBytes]:
    """What a data file holds, by key.

    Raises:
        MalformedError: it is none, or it is damaged.
    """
    with mapped(path) as data:
        head = bytes(data[: MAGIC_AT + HEADER.size])
        found = head[IDENTIFIER_AT : IDENTIFIER_AT + len(IDENTIFIER)]
        if found != IDENTIFIER or len(head) < MAGIC_AT + HEADER.size:
            raise MalformedError("it is no file of tensor data")
        magic, _, start, length, base, size = HEADER.unpack_from(head, MAGIC_AT)
        if magic != MAGIC or max(start + length, base + size) > len(data):
            raise MalformedError("it is truncated")
        root = Table.root(data, start + length)
        segments = [(each.number(0, "Q"), each.number(1, "Q")) for each in root.tables(SEGMENTS)]
        keys = {}
        for each in root.tables(NAMED):
            index = each.number(1, "I")
            if index >= len(segments) or sum(segments[index]) > size:
                raise MalformedError(f"{each.text(0)} lies outside of it")
            keys[each.text(0)] = NamedBytes(base + segments[index][0], segments[index][1])
        return keys


@lru_cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, which is not read again as long as its size and time are the same."""
    return file_hash(path)


def _name_method(role: str) -> str:
    return f"get_{role}_weights_file"


def _hash_method(role: str) -> str:
    return f"get_{role}_weights_sha256"
