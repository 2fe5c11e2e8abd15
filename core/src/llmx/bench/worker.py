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
from llmx.progress import peak_memory_bytes
from llmx.quiet import hushed

TOKEN = 1


def main(path: Path) -> None:
    """Load the program, tell how that went, and serve requests until stdin ends."""
    with hushed():
        from llmx.run.feeding import FedProgram
        from llmx.run.runtime import register_operators

        register_operators()
        before = peak_memory_bytes()
        begun = time.perf_counter()
        program = FedProgram(path)
        program.feed([TOKEN])
        loaded = time.perf_counter() - begun
    _say({"load_seconds": loaded, "before_bytes": before})
    for line in sys.stdin:
        request = json.loads(line)
        _say(_run(program, request["prompt"], request["answer"]))


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
        "peak_bytes": peak_memory_bytes(),
    }


def _say(answer: dict[str, float]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except LlmxError as error:
        _say({"error": error.message, "remedy": error.remedy})  # type: ignore[dict-item]
        sys.exit(error.exit_code)
