"""``llmx run`` and ``llmx chat`` as a shell sees them."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmx.cli import invoke

from .conftest import CONTEXT, END, Model

PROMPT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
SCRIPT = "from llmx.cli import main; main()"

Ids = Callable[[str], list[int]]


@pytest.fixture
def parisian(recite: Callable[..., Path], artifact: Callable[..., Path], ids: Ids) -> Path:
    """A chat model that answers "hello" with "paris 🙂"."""
    return artifact(recite([*ids("paris 🙂"), END], after=len(ids(PROMPT))))


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Give the next command these bytes on stdin."""

    def give(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def llmx(*arguments: object) -> list[str]:
    return [sys.executable, "-c", SCRIPT, *map(str, arguments)]


def test_run_answers_on_stdout_and_reports_on_stderr(
    parisian: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", str(parisian), "--prompt", "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == "paris 🙂\n"
    assert "prompt " in err
    assert "/s" in err
    assert "\x1b" not in err


@pytest.mark.parametrize("arguments", [[], ["--prompt", "-"]], ids=["no prompt", "dash"])
def test_run_reads_a_pipe(
    arguments: list[str],
    parisian: Path,
    pipe: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe(b"hello\n")
    assert invoke(["run", str(parisian), *arguments]) == 0
    assert capsys.readouterr().out == "paris 🙂\n"


def test_run_prints_one_json_object(parisian: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", str(parisian), "-p", "hello", "--json"]) == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert shown["text"] == "paris 🙂"
    assert shown["stop_reason"] == "end"
    assert err == ""


def test_raw_leaves_the_template_out(
    decoder: Model,
    artifact: Callable[..., Path],
    ids: Ids,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = artifact(decoder.program)
    arguments = ["run", str(folder), "-p", "hello", "--max-new-tokens", "1", "--json"]
    lengths = []
    for extra in ([], ["--raw"], ["--system", "brief"]):
        assert invoke([*arguments, *extra]) == 0
        lengths.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    system = "<|im_start|>system\nbrief<|im_end|>\n"
    assert lengths == [len(ids(PROMPT)), len(ids("hello")), len(ids(system + PROMPT))]


def test_run_takes_a_bare_program(
    decoder: Model, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(decoder.program), "-p", "x", "--max-new-tokens", "2"]
    assert invoke([*arguments, "--tokenizer", str(tokenizer_file)]) == 0
    assert invoke(arguments) == 2
    assert "--tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-p", ""], "the prompt is empty"),
        (["-p", "x", "--raw", "--system", "y"], "system message"),
        (["-p", "x" * 400], f"context is {CONTEXT} tokens"),
        (["-p", "x", "--temperature", "-1"], "temperature"),
        (["-p", "x", "--top-p", "0"], "top-p"),
    ],
    ids=["empty", "system", "too long", "too cold", "no nucleus"],
)
def test_run_refuses_what_it_cannot_do(
    arguments: list[str], problem: str, parisian: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", str(parisian), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert problem in err


def test_chat_over_a_pipe_writes_answers_only(
    parisian: Path, pipe: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(b"hello\n\n/reset\nhello\n/quit\nnever read\n")
    assert invoke(["chat", str(parisian)]) == 0
    out, err = capsys.readouterr()
    assert out == "paris 🙂\nparis 🙂\n"
    assert "new conversation" in err


def test_chat_changes_its_system_message(
    decoder: Model,
    artifact: Callable[..., Path],
    pipe: Callable[[bytes], None],
    ids: Ids,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe(b"/system brief\nhello\n")
    assert invoke(["chat", str(artifact(decoder.program)), "--max-new-tokens", "1"]) == 0
    count = len(ids("<|im_start|>system\nbrief<|im_end|>\n" + PROMPT))
    assert f"prompt {count} tokens" in capsys.readouterr().err


def test_chat_over_a_pipe_stops_at_an_unknown_command(
    parisian: Path, pipe: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(b"/nonsense\nhello\n")
    assert invoke(["chat", str(parisian)]) == 2
    assert "no command /nonsense" in capsys.readouterr().err


def test_chat_saves_the_conversation_and_overwrites_nothing(
    parisian: Path,
    tmp_path: Path,
    pipe: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "talk.json"
    for code in (0, 2):
        pipe(f"/system brief\n/reset\n/system\nhello\n/save {saved}\n".encode())
        assert invoke(["chat", str(parisian)]) == code
        assert json.loads(saved.read_text()) == {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "paris 🙂"},
            ]
        }
    err = capsys.readouterr().err
    assert "wrote 2 messages" in err
    assert "is there already" in err


def test_chat_prints_an_object_per_answer(
    parisian: Path, pipe: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(b"hello\nhello\n")
    assert invoke(["chat", str(parisian), "--json", "--stop", "ris"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], first["stop_reason"], first["cached_tokens"]) == ("pa", "stop", 0)
    assert second["prompt_tokens"] > first["prompt_tokens"]


def test_a_seed_repeats_an_answer(
    decoder: Model, artifact: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(artifact(decoder.program))
    hot = ["--temperature", "1.5", "--top-p", "0.95", "--top-k", "200", "--max-new-tokens", "8"]
    texts = []
    for seed in ("1", "1", "2"):
        assert invoke(["run", folder, "-p", "hello", *hot, "--seed", seed, "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_chat_needs_a_template(
    decoder: Model, artifact: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["chat", str(artifact(decoder.program, template=None))]) == 2
    assert "llmx run" in capsys.readouterr().err


def test_a_process_writes_the_answer_and_nothing_else(parisian: Path) -> None:
    result = subprocess.run(
        llmx("run", parisian, "-p", "hello"), capture_output=True, check=True, timeout=300
    )
    assert result.stdout.decode() == "paris 🙂\n"
    assert len(result.stderr.decode().splitlines()) == 1


def test_ctrl_c_keeps_what_was_said_and_leaves_with_130(
    artifact: Callable[..., Path], recite: Callable[..., Path]
) -> None:
    endless = recite([9] * 96, after=1, get_max_context_len=10**6)
    process = subprocess.Popen(
        llmx("run", artifact(endless), "-p", "hello"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in err.decode()
    assert "Traceback" not in err.decode()


def test_chat_in_a_terminal(parisian: Path) -> None:
    """Prompt, answer, help, and Ctrl-D, as a person sees them."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        llmx("chat", parisian), stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    seen = ""

    def expect(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 300
        while text not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([control], [], [], 1)[0]:
                seen += os.read(control, 4096).decode(errors="replace")
        seen = seen.partition(text)[2]

    try:
        expect("> ")
        os.write(control, b"hello\n")
        expect("paris 🙂")
        expect("> ")
        os.write(control, b"/oops\n")
        expect("no command /oops")
        expect("> ")
        os.write(control, b"\x04")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(control)
