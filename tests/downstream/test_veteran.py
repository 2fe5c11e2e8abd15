"""A plugin of an earlier version goes on working; what it should change is said once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.packages import installed

VETERAN = Path(__file__).parent / "veteran"
TINY = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 128, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
NOTE = (
    "note: family veteran (llmx-plugin-veteran 1.0): the hook gguf_pre_tokenizer is deprecated "
    "and goes in llmx 1.0: use gguf_tokenizer\n"
)
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Runs Python, in an empty folder, where the veteran is installed."""
    folder = tmp_path_factory.mktemp("downstream")
    environment: Mapping[str, str] = installed(shutil.copytree(VETERAN, folder / "veteran"))
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return run


def test_it_exports(python: Python, tmp_path: Path) -> None:
    words = [
        "export",
        "veteran",
        "--params",
        "tiny.json",
        "--random-weights",
        "-o",
        str(tmp_path / "out"),
    ]
    code = "from llmx.cli import main; main()"
    result = python("-c", code, *words, "--backend", "veteran_cpu")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(NOTE) == 1
    checks = json.loads((tmp_path / "out/llmx.json").read_text(encoding="utf-8"))["checks"]
    assert checks
    assert all(each["passed"] for each in checks)


def test_a_renamed_hook_answers_under_its_present_name(python: Python) -> None:
    code = (
        "from llmx.plugins import load; hooks = load('veteran', None).family\n"
        "print([hooks.gguf_tokenizer(name=each) for each in ('veteran', 'other')])"
    )
    section = {"pre_tokenizer": {"type": "Digits", "individual_digits": True}}
    assert python("-c", code).stdout == f"{[section, None]}\n"
