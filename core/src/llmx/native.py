"""ExecuTorch's compiled parts, without its Python packages, which take seconds to import.

The bindings' module is internal; ``tests/core/test_internals.py`` fails when it moves.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from llmx.errors import ConfigError, LlmxError

CUSTOM_OPERATORS = ("extension/llm/custom_ops", "*custom_ops_aot_lib.*")
QUANTIZED_OPERATORS = ("kernels/quantized", "*quantized_ops_aot_lib.*")


@functools.cache
def bindings() -> ModuleType:
    """The runtime as a Python extension module."""
    # libtorch must be loaded before.
    import torch  # noqa: F401
    from executorch.extension.pybindings import _C

    module: ModuleType = _C
    return module


@functools.cache
def register_operators() -> None:
    """Make the custom attention and the quantized operators known to PyTorch and the runtime.

    Only their kernels: ``torch.export`` also needs their shapes, see ``llmx.lower.capture``.
    """
    import torch

    bindings()
    for folder, pattern in (CUSTOM_OPERATORS, QUANTIZED_OPERATORS):
        libraries = list((_root() / folder).glob(pattern))
        if len(libraries) != 1:
            raise LlmxError(
                f"this installation of executorch has {len(libraries)} libraries {pattern}",
                remedy="reinstall it: pip install --force-reinstall executorch",
            )
        torch.ops.load_library(libraries[0])  # type: ignore[no-untyped-call]


def load_operators(library: str | None) -> None:
    """Load a library that registers operators with PyTorch, if one is named.

    Raises:
        ConfigError: there is none, or it cannot be loaded into this process.
    """
    import torch

    if library is None:
        return
    bindings()
    path = Path(library)
    if not path.is_file():
        raise ConfigError(f"export.so_library: no such file: {path}")
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"export.so_library: {path} cannot be loaded: {reason}",
            remedy="it must be built against this version of torch, for this machine",
        ) from error


def has_backend(name: str) -> bool:
    """Whether the runtime has a backend that registers itself under this id."""
    return bool(bindings()._is_available(name))


def load_program(path: Path, data: Path | None = None) -> Any:
    """The program in ``path``, checked for internal consistency.

    ``data`` is a file with weights of it.

    Raises:
        RuntimeError: it cannot be loaded; the reason went to stderr.
    """
    module = bindings()
    return module._load_program(
        str(path),
        program_verification=module.Verification.InternalConsistency,
        data_path=_text(data),
    )


def load_recording_program(path: Path, data: Path | None = None) -> Any:
    """The same, with every call recorded for ``write_etdump_result_to_file``.

    Raises:
        RuntimeError: it cannot be loaded; the reason went to stderr.
    """
    return bindings()._load_program(str(path), enable_etdump=True, data_path=_text(data))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _root() -> Path:
    spec = find_spec("executorch")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
