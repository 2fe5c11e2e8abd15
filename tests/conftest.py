"""How tests are shared out to processes (``pytest -n auto --no-loadscope-reorder``); no cache.

Tests neither read nor fill the user's cache; those of the cache bring their own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

# Tests that share what takes long to make, through fixtures of the session.
TOGETHER = ("tests/e2e/", "tests/core/run/", "tests/reports/", "tests/trust/")

os.environ["LLMX_CACHE_DIR"] = ""

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core; read when torch is imported, also by subprocesses.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Keep together what shares fixtures: these folders, else a class or module."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((each for each in TOGETHER if nodeid.startswith(each)), None)
            return folder or super()._split_scope(nodeid)

    return Scheduling(config, log)
