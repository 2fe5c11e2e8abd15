"""Arm's packages that ExecuTorch's code imports, of the versions that it asks for.

They state older versions of NumPy, FlatBuffers and jsonschema than llmx is tested with, and work
with those all the same; so they are an extra and not a dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from llmx import ConfigError

TOSA = {"tosa-tools": "2026.5.0", "ml_dtypes": "0.5.1"}
VELA = {"ethos-u-vela": "5.1.0"}
INSTALL = "pip install 'llmx-backend-arm[sdk]'"


def check_packages(backend: str, *wanted: dict[str, str]) -> None:
    """Refuse to begin without what lowering imports.

    Raises:
        ConfigError: with the command that installs it.
    """
    problems = [each for packages in wanted for each in _problems(packages)]
    if problems:
        raise ConfigError(f"{backend}: {', '.join(problems)}", remedy=INSTALL)


def _problems(packages: dict[str, str]) -> Sequence[str]:
    found = []
    for name, wanted in packages.items():
        try:
            have = version(name)
        except PackageNotFoundError:
            found.append(f"the package {name} {wanted} is not installed")
            continue
        if have.split(".")[:2] != wanted.split(".")[:2]:
            found.append(f"{name} {have} is installed, ExecuTorch works with {wanted}")
    return found
