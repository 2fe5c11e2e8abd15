"""A process of its own that holds one program and times it on request.

Started as ``python -m llmx.bench.worker PROGRAM``. It answers each line on stdin, a JSON object,
with one on stdout. Only here are load time and memory those of one program alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from llmx.errors import LlmxError
from llmx.memory import AddedMemory
from llmx.quiet import hushed

TOKEN = 1


def main(path: Path) -> None:
    """Load the program, tell how that went, and serve requests until stdin ends."""
    with hushed():
        import torch

        from llmx.run.feeding import FedProgram
        from llmx.run.runtime import register_operators

        register_operators()
        # What the first operators of any kind make PyTorch load is not the model's.
        torch.tensor([[TOKEN]]).float().argmax()
        memory = AddedMemory()
        begun = time.perf_counter()
        program = FedProgram(path)
        program.feed([TOKEN])
        loaded = time.perf_counter() - begun
    _say(
        {
            "load_seconds": loaded,
            "before_bytes": memory.before,
            "loaded_bytes": memory.now(),
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        times = _run(program, request["prompt"], request["answer"])
        _say({**times, "peak_bytes": memory.peak()})


def _run(program: Any, prompt: int, answer: int) -> dict[str, float]:
    """Times of reading ``prompt`` tokens and making ``answer`` more, the most likely ones."""
    text = [TOKEN] * prompt
    begun = time.perf_counter()
    text.append(int(program.read(text).argmax()))
    first = time.perf_counter()
    for _ in range(answer):
        new = text[-1:] if program.cached else text
        text.append(int(program.feed(new, len(text) - 1).argmax()))
    return {
        "prefill_seconds": first - begun,
        "decode_seconds": time.perf_counter() - first,
    }


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LlmxError as error:
        _say({"error": error.message, "remedy": error.remedy})
        sys.exit(error.exit_code)
