"""The part of ExecuTorch's code for MLX that its package for Linux comes without.

It is generated from a schema that the package has, by a script and a compiler that it has too;
llmx does not write into other packages.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from llmx import ConfigError

GENERATED = ("mlx_graph_schema.py", "_generated_serializers.py", "_generated")


def check_serializers() -> None:
    """Refuse to begin without what the partitioner imports.

    Raises:
        ConfigError: with the command that makes it.
    """
    folder = executorch_folder() / "backends" / "mlx" / "serialization"
    missing = [name for name in GENERATED if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"MLX: this package of ExecuTorch comes without {' and '.join(missing)}",
            remedy=f"make them: {sys.executable} {folder / 'generate.py'} --flatc {flatc()}; that "
            "it then misses MLXLoader.h.tmpl, of which the runtime would be made, is no harm",
        )


def executorch_folder() -> Path:
    """Where the package ``executorch`` is."""
    spec = find_spec("executorch")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def flatc() -> Path:
    """FlatBuffers' compiler, which ExecuTorch brings."""
    return executorch_folder() / "data" / "bin" / "flatc"
