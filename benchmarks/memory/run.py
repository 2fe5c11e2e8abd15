"""Peak memory of exports, on random weights in the shape of published models.

    .venv/bin/python benchmarks/memory/run.py [--size 8b]

Writes a bf16 checkpoint (16 GB for 8b) below ``build/memory`` unless it is there, exports it with
the default recipe, and prints the memory that was expected, the process's peak after every stage,
and how that compares with the size of the program.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from checkpoint import write_checkpoint

from llmx.plugins import load

BUILD = Path(__file__).parent.parent.parent / "build" / "memory"
FAMILIES = {"8b": "llama3_1", "1b": "llama3_2", "3b": "llama3_2"}
GIGA = 1e9


def main() -> int:
    """Make, export, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=FAMILIES, default="8b")
    size = parser.parse_args().size
    name = FAMILIES[size]
    params = load(name, None).family.sizes()[size].params
    checkpoint = write_checkpoint(params, BUILD / f"{name}-{size}")
    folder = BUILD / f"{name}-{size}-out"
    words = ["export", name, "--checkpoint", str(checkpoint), "-o", str(folder), "--no-cache"]
    started = time.monotonic()
    subprocess.run([str(Path(sys.executable).parent / "llmx"), *words], check=True)  # noqa: S603
    seconds = time.monotonic() - started
    sys.stdout.write(told(json.loads((folder / "llmx.json").read_text()), seconds))
    return 0


def told(manifest: dict[str, Any], seconds: float) -> str:
    """The figures, line by line."""
    program = manifest["program"]["bytes"]
    lines = [f"{'program':28} {program / GIGA:6.2f} GB, written in {seconds:.0f} s"]
    lines.append(f"{'expected peak':28} {manifest['predicted_peak_bytes'] / GIGA:6.2f} GB")
    for stage in manifest["stages"]:
        peak = stage["peak_bytes"]
        lines.append(
            f"{'peak after ' + stage['name']:28} {peak / GIGA:6.2f} GB, "
            f"the program and {(peak - program) / GIGA:5.2f} GB"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
