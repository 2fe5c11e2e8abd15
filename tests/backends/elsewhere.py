"""Tiny exports in another process, by another Python or with other packages."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.backends.families import tiny_families

from llmx.testing.tiny import SHAPE, write_config

SCRIPT = """
import json, sys
from llmx import ExportJob, export
for family, options in json.loads(sys.argv[1]):
    export(ExportJob.create(family, random_weights=True, **options))
"""

Exports = Mapping[str, Mapping[str, Any]]
"""Options by name; ``family`` is SmolLM2 and ``config`` is ``SHAPE`` if not given."""


def with_families(exports: Exports, **options: Any) -> dict[str, Mapping[str, Any]]:
    """``exports``, and one of each family by its name."""
    every = {
        name: {**options, "family": name, "config": config}
        for name, config in tiny_families().items()
    }
    return {**exports, **every}


def exported(
    python: Path, folder: Path, exports: Exports, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``llmx.json`` records of each export, all of them made by one process of ``python``."""
    jobs = []
    for name, given in exports.items():
        options = dict(given)
        family, config = options.pop("family", "smollm2"), options.pop("config", SHAPE)
        (folder / name).mkdir()
        params = str(write_config(folder / name, **config))
        output = str(folder / name / "out")
        jobs.append((family, {**options, "params": params, "output_dir": output}))
    done = subprocess.run(
        [python, "-c", SCRIPT, json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: json.loads((folder / name / "out" / "llmx.json").read_text()) for name in exports}


def environment(folder: Path, *install: str) -> Path:
    """Python of an environment with these packages over those that run the tests.

    Skips the tests if they cannot be installed.
    """
    python = folder / "environment" / "bin" / "python"
    venv.create(folder / "environment", with_pip=True)
    (site,) = (folder / "environment").glob("lib/*/site-packages")
    parent = sysconfig.get_paths()["purelib"]
    (site / "parent.pth").write_text(f"import site; site.addsitedir({parent!r})\n")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *install],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{' '.join(install)} cannot be installed: {done.stderr.strip()[-200:]}")
    return python
