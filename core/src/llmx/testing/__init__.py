"""Tests for authors of model families; needs the extra ``llmx-core[testing]``.

Installing llmx makes its pytest plugin known; a test module then says

    class TestMyFamily(FamilyConformance):
        family = "my_family"
        model_type = "my_architecture"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx.testing.conformance import FamilyConformance

__all__ = ["FamilyConformance"]


def __getattr__(name: str) -> Any:
    """Import the tests on first use only: pytest loads the plugin in every project's run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmx.testing.conformance import FamilyConformance

    return FamilyConformance
