"""Plugin packages that are taken as installed, without pip, and their own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path


def installed(package: Path) -> dict[str, str]:
    """An environment in which Python takes the package as installed, as pip would have it."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = package / "site"
    sources = (package / "src", package)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    requires = [f"Requires-Dist: {each}\n" for each in project["dependencies"]]
    (info / "METADATA").write_text("".join([head, *requires]))
    lines: list[str] = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site, *sources)))}


def its_tests(package: Path, *options: str) -> str:
    """Run the package's own tests; what pytest says."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests"]
    result = subprocess.run(
        command, cwd=package, env=installed(package), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
