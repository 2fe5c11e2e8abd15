"""A program file with its weights taken out, and how others are put in.

Kept as a folder of two files: the bytes that do not depend on the weights, one span after the
other, and a JSON description with the places of everything that does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from attrs import define, field, frozen
from torch import nn

from llmx.errors import LlmxError
from llmx.skeleton.pattern import Pattern
from llmx.skeleton.pieces import DelegateData, Piece, pieces_of
from llmx.skeleton.span import Span

DESCRIPTION = "skeleton.json"
BYTES = "bytes.bin"


class NoSkeletonError(LlmxError):
    """The program holds weights in a form that cannot be traced back to the model."""


class OtherStructureError(LlmxError):
    """These weights lower to a program of another structure, or the skeleton is damaged."""


@frozen
class Skeleton:
    """A program without weights.

    Attributes:
        folder: holds the bytes that stay.
        size: bytes of the whole program file.
        kept: spans of the file that do not depend on weights, in the order of their bytes.
        data: spans by the name of the piece that goes there.
        keys: spans by the name of the piece whose key is spelled out there.
        pattern: the pattern that weights must have to fit.
        facts: what the export that made it found out about the program; JSON-able.
    """

    folder: Path
    size: int
    kept: tuple[Span, ...]
    data: Mapping[str, tuple[Span, ...]]
    keys: Mapping[str, tuple[Span, ...]]
    pattern: str
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Skeleton:
        """Open a kept skeleton.

        Raises:
            OtherStructureError: it is damaged, or vanished.
        """
        try:
            described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            return cls(
                folder,
                described["size"],
                tuple(Span(*each) for each in described["kept"]),
                _spans_by_name(described["data"]),
                _spans_by_name(described["keys"]),
                described["pattern"],
                described["facts"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OtherStructureError(f"{folder} is damaged: {error}") from error


@define
class Filling:
    """Writes a program from a skeleton and the modules of a model, in any order.

    A context manager around the writing; ``fits`` tells whether the result is a program.
    """

    skeleton: Skeleton
    path: Path
    _pattern: Pattern = field(factory=Pattern, init=False)
    _file: int = field(default=-1, init=False)

    def __enter__(self) -> Filling:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.ftruncate(self._file, self.skeleton.size)
        try:
            with (self.skeleton.folder / BYTES).open("rb") as source:
                for span in self.skeleton.kept:
                    self._write(span, source.read(span.length))
        except OSError as error:
            os.close(self._file)
            raise OtherStructureError(f"the skeleton vanished: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def put(self, name: str, module: nn.Module, delegate_data: DelegateData) -> None:
        """Write a module's pieces, and their keys, wherever the program has them.

        Raises:
            OtherStructureError: a piece is of another size than the one that was there.
        """
        self._pattern.add_form(name, module)
        for piece in pieces_of(name, module, delegate_data):
            self._put(piece)

    def _put(self, piece: Piece) -> None:
        self._pattern.add(piece)
        for span in self.skeleton.data.get(piece.name, ()):
            self._write(span, piece.content)
        for span in self.skeleton.keys.get(piece.name, ()):
            self._write(span, (piece.key or "").encode())

    def fits(self) -> bool:
        """Whether all modules came, of the same forms and with the same pieces equal.

        If not, lowering these weights would give another file, and what was written is none.
        """
        return self._pattern.summary() == self.skeleton.pattern

    def _write(self, span: Span, content: bytes | memoryview) -> None:
        if len(content) != span.length:
            raise OtherStructureError(
                f"{len(content)} bytes came for {span.length} bytes of the skeleton"
            )
        view, at = memoryview(content), span.offset
        while view:
            written = os.pwrite(self._file, view, at)
            view, at = view[written:], at + written


def _spans_by_name(described: Mapping[str, list[list[int]]]) -> dict[str, tuple[Span, ...]]:
    return {name: tuple(Span(*each) for each in spans) for name, spans in described.items()}
