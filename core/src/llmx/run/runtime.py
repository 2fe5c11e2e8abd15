"""ExecuTorch's runtime in this process, with its operators registered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from llmx import native
from llmx.config.methods import FORWARD
from llmx.errors import ArtifactError, LlmxError
from llmx.native import register_operators
from llmx.quiet import stderr_captured
from llmx.run.data import data_of

__all__ = ["ProgramMethod", "last_line", "load_program", "register_operators"]

IDENTIFIER = b"ET"
IDENTIFIER_OFFSET = 4
EXPORT_AGAIN = "export the model again"


def load_program(path: Path) -> Any:
    """Verify a ``.pte`` and load it; its methods must not outlive it.

    Raises:
        ArtifactError: it is missing, no program, or damaged, or so are files with its weights.
    """
    _check_identifier(path)
    register_operators()
    with data_of(path) as data, stderr_captured() as log:
        try:
            return native.load_program(path, data)
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} is damaged: {last_line(log) or error}", remedy=EXPORT_AGAIN
            ) from error


def _check_identifier(path: Path) -> None:
    # The runtime logs a wrong identifier byte for byte, and logging broken UTF-8 aborts Python.
    try:
        with path.open("rb") as file:
            head = file.read(IDENTIFIER_OFFSET + len(IDENTIFIER))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    if head[IDENTIFIER_OFFSET:] != IDENTIFIER:
        raise ArtifactError(f"{path} is not an ExecuTorch program", remedy="name a .pte file")


class ProgramMethod:
    """A method of a ``.pte``, ``forward`` unless another is named, called with tensors."""

    def __init__(self, path: Path, name: str = FORWARD) -> None:
        self._path = path
        # The program must outlive its method.
        self._program: Any = load_program(path)
        self._method: Any = self._loaded(name)

    def beside(self, name: str) -> ProgramMethod:
        """Another method of the program, in the same memory: it finds the state that both have."""
        other = copy.copy(self)
        other._method = self._loaded(name)
        return other

    def _loaded(self, name: str) -> Any:
        with stderr_captured() as log:
            try:
                return self._program.load_method(name)
            except RuntimeError as error:
                raise ArtifactError(
                    f"{self._path} cannot be loaded by the runtime: {last_line(log) or error}",
                    remedy=EXPORT_AGAIN,
                ) from error

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run with inputs as ``forward`` takes them; the result is a copy."""
        with stderr_captured() as noise:
            try:
                output: Tensor = self._method(list(inputs))[0].clone()
            except RuntimeError as error:
                raise LlmxError(f"the runtime failed: {last_line(noise) or error}") from error
        return output


def last_line(noise: Any) -> str:
    """The last line that native code wrote, without its source location."""
    noise.seek(0)
    lines = [line for line in noise.read().splitlines() if line.strip()]
    return lines[-1].rpartition("] ")[2] if lines else ""
