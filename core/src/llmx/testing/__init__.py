"""Tests for authors of model families and backends; needs the extra ``llmx-core[testing]``.

Installing llmx makes its pytest plugin known; a test module then says

    class TestMyFamily(FamilyConformance):
        family = "my_family"
        model_type = "my_architecture"

or, for a backend,

    class TestMyBackend(BackendConformance):
        backend = "my_backend"
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.testing.backends import BackendConformance
    from llmx.testing.conformance import FamilyConformance

__all__ = ["BackendConformance", "FamilyConformance"]

_HOMES = {
    "BackendConformance": "llmx.testing.backends",
    "FamilyConformance": "llmx.testing.conformance",
}


def __getattr__(name: str) -> Any:
    """Import the tests on first use only: pytest loads the plugin in every project's run."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
