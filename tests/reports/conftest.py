"""One export of a small model that is asked for everything it can tell."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from llmx import Artifact
from llmx.cli import invoke
from llmx.native import CUSTOM_OPERATORS
from llmx.testing.tiny import write_config

LAYERS = 5


def export(folder: Path, *words: str) -> int:
    """Export the model with random weights, the same every time, and give the exit code."""
    params = write_config(folder, num_hidden_layers=LAYERS)
    command = ["export", "smollm2", "--params", str(params), "--random-weights", "--quiet"]
    return invoke([*command, "-o", str(folder / "artifact"), *words])


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Five layers, of which three are lowered and the others repeat the middle one."""
    folder = tmp_path_factory.mktemp("reports")
    words = ["debug.generate_etrecord=true", "debug.profile_memory=true", "--report"]
    assert export(folder, *words, "--debug") == 0
    return Artifact.open(folder / "artifact")


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same model, not lowered, with a flame graph of the export beside it."""
    folder = tmp_path_factory.mktemp("graph")
    library, pattern = CUSTOM_OPERATORS
    found = find_spec("executorch")
    assert found is not None
    assert found.submodule_search_locations is not None
    (operators,) = (Path(found.submodule_search_locations[0]) / library).glob(pattern)
    words = [f"export.so_library={operators}", f"debug.profile_path={folder / 'flame.html'}"]
    assert export(folder, "export.export_only=true", *words, "--debug") == 0
    return Artifact.open(folder / "artifact")
