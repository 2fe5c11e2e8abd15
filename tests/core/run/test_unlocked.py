"""Programs can be loaded without their tables being held in memory."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from llmx.lower.program import default_program_config, finish, lower
from llmx.run.runtime import ProgramMethod
from llmx.run.unlocked import without_locked_pages

STATUS = Path("/proc/self/status")
ROWS = 4096  # of 64 floats: a megabyte

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="this system counts no locked pages")


def told(name: str) -> str:
    return re.search(rf"{name}:\s+(\S+)", STATUS.read_text())[1]  # type: ignore[index]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = nn.Embedding(ROWS, 64)
    exported = torch.export.export(table, (torch.tensor([1]),))
    path = tmp_path_factory.mktemp("table") / "model.pte"
    path.write_bytes(finish(lower(exported, [], [], {}), default_program_config()).buffer)
    return path


def test_no_table_is_locked_within_and_everything_is_as_before_after(program: Path) -> None:
    before = told("CapEff"), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with without_locked_pages():
        method = ProgramMethod(program)
        assert told("VmLck") == "0"
        assert method(torch.tensor([3])).shape == (1, 64)
    assert (told("CapEff"), resource.getrlimit(resource.RLIMIT_MEMLOCK)) == before


def test_the_runtime_locks_tables_where_it_may(program: Path) -> None:
    """If it no longer does, ``unlocked.py`` is to go."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and soft < 2 * program.stat().st_size:
        pytest.skip("this user may not lock as much")
    method = ProgramMethod(program)
    assert int(told("VmLck")) * 1024 >= ROWS * 64 * 4
    del method


def test_an_error_leaves_everything_as_before() -> None:
    before = told("CapEff"), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with pytest.raises(ValueError, match="within"), without_locked_pages():
        raise ValueError("within")
    assert (told("CapEff"), resource.getrlimit(resource.RLIMIT_MEMLOCK)) == before
