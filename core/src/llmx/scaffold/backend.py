"""A new backend's package."""

from __future__ import annotations

from collections.abc import Mapping

from llmx.scaffold.package import PackageName, common_values, render


def backend_package(package: PackageName) -> Mapping[str, str]:
    """Files of the package by path. It lowers nothing yet, so portable kernels run its programs."""
    values = common_values(package)
    return {
        "pyproject.toml": render("backend_pyproject.txt", values),
        "README.md": render("backend_readme.txt", values),
        f"src/{package.module}/__init__.py": render("backend_module.txt", values),
        "tests/test_backend.py": render("backend_test.txt", values),
    }
