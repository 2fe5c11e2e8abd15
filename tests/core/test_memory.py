"""Memory that may be used, and refusing what needs more before any work."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from llmx import memory
from llmx.cli import invoke
from llmx.lower.forecast import (
    Forecast,
    MemoryShortageError,
    ignore_shortage,
    require_memory,
)
from llmx.memory import rare_collections
from llmx.testing.tiny import write_config

MEGA = 1024 * 1024


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 100 MB left and a process of 1 MB that is in no control group."""
    (tmp_path / "meminfo").write_text("MemTotal: 999999 kB\nMemAvailable: 102400 kB\n")
    (tmp_path / "status").write_text("Name: python\nVmRSS:\t1024 kB\n")
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    return tmp_path


def limit(folder: Path, names: tuple[str, str, str], values: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(values[0] + "\n")
    (folder / names[1]).write_text(values[1] + "\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {values[2]}\n")


V1, V2 = reversed(memory.LIMITS)


def test_without_limits_it_is_what_the_machine_has_left_and_what_is_held(machine: Path) -> None:
    assert memory.available_memory() == 101 * MEGA


def test_a_limit_of_version_2_counts_at_every_level(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/user/job\n")
    limit(machine / "groups/user/job", V2, ("max", str(9 * MEGA), "0"))
    limit(machine / "groups/user", V2, (str(50 * MEGA), str(20 * MEGA), str(5 * MEGA)))
    assert memory.available_memory() == (50 - 20 + 5 + 1) * MEGA


def test_a_limit_of_version_1_counts(machine: Path) -> None:
    (machine / "cgroup").write_text("5:cpu:/x\n4:memory:/job\n")
    limit(machine / "groups/memory/job", V1, (str(30 * MEGA), str(10 * MEGA), "0"))
    assert memory.available_memory() == 21 * MEGA


def test_in_a_container_the_root_of_the_groups_is_its_own(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/docker/0123\n")
    limit(machine / "groups", V2, (str(30 * MEGA), str(10 * MEGA), "0"))
    assert memory.available_memory() == 21 * MEGA


def test_a_system_that_does_not_say_limits_nothing(machine: Path) -> None:
    for name in ("meminfo", "status", "cgroup"):
        (machine / name).unlink()
    assert memory.available_memory() is None
    require_memory(Forecast(10**15, {"lowering": 0}))


def test_what_exceeds_it_is_refused_with_figures(machine: Path) -> None:
    require_memory(Forecast(50 * MEGA, {"rounding": 50 * MEGA, "lowering": 30 * MEGA}))
    with pytest.raises(MemoryShortageError, match=r"0\.1 GB of memory .*for rounding") as raised:
        require_memory(Forecast(60 * MEGA, {"rounding": 50 * MEGA, "lowering": 30 * MEGA}))
    assert raised.value.exit_code == 2
    assert "--force" in str(raised.value.remedy)
    ignore_shortage(Forecast(60 * MEGA, {"rounding": 50 * MEGA}))


def test_the_command_refuses_before_it_reads_or_writes_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "llama3_1", "--size", "405b", "--random-weights", "-q"]
    assert invoke([*words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "GB of memory at its peak" in error
    assert "--force" in error
    assert list(tmp_path.iterdir()) == []


def test_collections_are_as_before_afterwards() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), rare_collections():
        assert gc.get_threshold()[0] > before[0]
        raise ZeroDivisionError
    assert gc.get_threshold() == before


def test_exports_do_not_bring_executorchs_developer_tools(tmp_path: Path) -> None:
    """They bring pandas: 66 MB in every export, and a quarter of a second."""
    params = str(write_config(tmp_path, num_hidden_layers=1))
    job = ["export", "smollm2", "--random-weights", "--backend", "none", "--no-cache", "--quiet"]
    job += ["--params", params, "-o", str(tmp_path / "out")]
    code = (
        "import sys; from llmx.cli import invoke; code = invoke(sys.argv[1:]);"
        "print(code, *{'executorch.devtools', 'pandas'} & sys.modules.keys())"
    )
    run = subprocess.run([sys.executable, "-c", code, *job], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["0"], run.stderr
