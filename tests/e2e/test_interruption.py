"""An export that is stopped leaves nothing behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import llmx

JOB = ("export", "smollm2", "--random-weights", "export.max_context_length=64")


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    params = tmp_path / "config.json"
    params.write_text(
        '{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,'
        ' "intermediate_size": 128, "vocab_size": 128, "max_position_embeddings": 64}'
    )
    (tmp_path / "out").mkdir()
    return [*JOB, "--params", str(params), "-o", str(tmp_path / "out" / "artifact")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "kill"]
)
def test_a_signal_while_lowering(
    job: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "llmx.cli", *job], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("torch.export"):
                break
        assert list((tmp_path / "out").iterdir()), "it works in a scratch folder"
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == code
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in rest


def test_a_disk_that_takes_no_more(job: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmx.cli", *job],
        stderr=subprocess.PIPE,
        text=True,
        # No file may grow beyond this: the program is larger.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "smollm2", "--checkpoint", "no/such/dir/x"), "no such file or folder"),
        (("export", "smollm2", "--size", "9b"), "9b"),
        (("export", "smollm2", "--checkpoint", "{tmp}/garbage"), "garbage"),
        (("export", "smollm2", "--random-weights", "-o", "{tmp}/garbage"), "is a file"),
        (("export", "smollm2", "--random-weights", "-o", "{tmp}"), "did not write"),
        (("export", "smollm2", "--random-weights", "--group-size", "100"), "take groups of 32"),
        (("export", "smollm2", "--random-weights", "--max-context-length", "99999"), "8192"),
        (("export", "smollm2", "--random-weights", "--dtype", "fp16"), "no 8da4w kernels"),
        (("export", "smollm2", "model.use_kv_cach=true"), "did you mean model.use_kv_cache"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "garbage").write_bytes(b"not a checkpoint")
    done = llmx(*(each.format(tmp=tmp_path) for each in arguments))
    assert done.returncode == 2, done.stderr
    problem = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message in problem
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["garbage"]
