"""The packages that the backend needs, of the versions that ExecuTorch's code works with.

They want an older NumPy than llmx is tested with, so that they are an extra and not a dependency.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from llmx import ConfigError

TESTED = {"openvino": "2025.4.1", "nncf": "3.1.0"}
INSTALL = "pip install 'llmx-backend-openvino[sdk]'"


def missing_package(name: str) -> str | None:
    """Why the package cannot be used, ``None`` if it can."""
    wanted = TESTED[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"the package {name} {wanted} is not installed"
    if found.split(".")[:2] != wanted.split(".")[:2]:
        return f"{name} {found} is installed; ExecuTorch's delegate works with {wanted}"
    return None


def check_packages() -> None:
    """Refuse to begin without what lowering imports.

    Raises:
        ConfigError: with the command that installs it.
    """
    for name in TESTED:
        problem = missing_package(name)
        if problem is not None:
            raise ConfigError(
                f"OpenVINO: {problem}",
                remedy=f"{INSTALL}, in an environment of its own: it brings an older NumPy",
            )
