"""Throw-away distributions, laid out as pip leaves them, and the means to run llmx on them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

FAMILY = """
from llmx import DecoderParams, ModelSize, hookimpl

def _size(layers):
    params = DecoderParams(
        dim=8, n_layers=layers, n_heads=2, n_kv_heads=1, head_dim=4, hidden_dim=16,
        vocab_size=32, max_position=64,
    )
    return ModelSize(params=params, hub_repo=f"org/tiny-{layers}", config_url="")

@hookimpl
def sizes():
    return {"0.6b": _size(2), "1.7b": _size(3)}

@hookimpl
def convert_weights(checkpoint, params):
    return []

@hookimpl
def token_ids(checkpoint):
    return None
"""

BACKEND = """
from typing import Literal

from attrs import field, frozen

from llmx import Recipe, hookimpl

@frozen
class Options:
    enabled: bool = False
    extended_ops: bool = field(default=False, metadata={"doc": "Take more operators."})
    ios: int = field(default=15, metadata={"doc": "Oldest system."})
    device: Literal["cpu", "gpu"] = "cpu"

@hookimpl
def options():
    return Options

@hookimpl
def partitioners(job):
    return []

@hookimpl
def recipes():
    lengths = {"export.max_seq_length": None, "export.max_context_length": None}
    small = {"model.use_kv_cache": True, "quantization.qmode": "8da4w",
             "quantization.group_size": 32, **lengths}
    exact = {"model.use_kv_cache": True, **lengths}
    return {"default": Recipe("Small.", small), "exact": Recipe("As it is.", exact)}
"""

_serial = itertools.count()


class Site:
    """A folder of installed packages.

    ``path`` goes on ``sys.path``; each ``install`` writes a module and its ``.dist-info``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def install(
        self,
        distribution: str,
        module: str,
        *,
        families: tuple[str, ...] = (),
        backends: tuple[str, ...] = (),
        version: str = "1.0",
        attribute: str = "",
        requires: str = "llmx-core",
    ) -> None:
        """Install ``module`` (source text) under an own module name as these plugins."""
        name = f"{distribution.replace('-', '_')}_{next(_serial)}"
        target = f"{name}:{attribute}" if attribute else name
        (self.path / f"{name}.py").write_text(module)
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            f"Requires-Dist: {requires}\n"
        )
        groups = {"llmx.families": families, "llmx.backends": backends}
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{each} = {target}\n" for each in names)
                for group, names in groups.items()
                if names
            )
        )
        (info / "RECORD").write_text(f"{name}.py,,\n{info.name}/METADATA,,\n")
        (info / "INSTALLER").write_text("pip\n")

    def family(self, *names: str, distribution: str = "llmx-plugin-tiny") -> None:
        """A working family under these names."""
        self.install(distribution, FAMILY, families=names)

    def backend(self, *names: str, distribution: str = "llmx-backend-tiny") -> None:
        """A working backend under these names."""
        self.install(distribution, BACKEND, backends=names)

    def python(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with the packages importable."""
        path = os.pathsep.join([str(self.path), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def llmx(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the ``llmx`` command."""
        script = "from llmx.cli import main; main()"
        return self.python("-c", script, *arguments, environment=environment)

    def json(self, *arguments: str) -> Any:
        """What a command prints as JSON."""
        result = self.llmx(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty folder of packages, for subprocesses."""
    return Site(tmp_path / "site-packages")


@pytest.fixture
def live_site(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The same, importable in this process too."""
    monkeypatch.syspath_prepend(str(site.path))
    return site


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a config file."""

    def write_config(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_config
