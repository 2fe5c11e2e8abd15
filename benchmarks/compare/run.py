"""``make bench``: llmx beside export_llm and optimum-executorch, on the same weights and settings.

Exports SmolLM2-135M-Instruct with each, runs the programs in turns on one runtime, keeps the
figures in ``benchmarks/compare/results`` and writes ``docs/benchmarks.md`` from them. What has been
exported is not exported again: ``make clean`` forgets it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from measure import measure
from page import write_page
from tools import TOOLS, export
from weights import prepare

from llmx.cli import SERIAL_PRODUCTS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "benchmarks"
RESULTS = HERE / "results"
QUICK_LAYERS = 4


def main() -> int:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"the first {QUICK_LAYERS} layers only: minutes instead of half an hour",
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns of every program")
    parser.add_argument("--page-only", action="store_true", help="write the page from old results")
    options = parser.parse_args()
    if not options.page_only:
        mode = "quick" if options.quick else "full"
        weights = prepare(BUILD / mode / "weights", QUICK_LAYERS if options.quick else None)
        programs, costs = {}, {}
        for tool in TOOLS:
            say(f"{tool.name}: exporting")
            folder = BUILD / mode / tool.name
            programs[tool.name] = export(tool, weights, folder, BUILD / "environments")
            costs[tool.name] = json.loads((folder / "export.json").read_text())
        say("running the programs in turns")
        # As a device multiplies: each of ExecuTorch's threads by itself.
        os.environ.setdefault(*SERIAL_PRODUCTS)
        with get_context("spawn").Pool(1) as process:
            texts = HERE.parent / "heldout"
            measured = process.apply(measure, (programs, weights, texts, options.rounds))
        results = {
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "machine": machine(),
            "versions": {name: version(name) for name in ("llmx-core", "executorch", "torch")},
            "layers": QUICK_LAYERS if options.quick else 30,
            "rounds": options.rounds,
            "tools": {name: {"export": costs[name], **measured[name]} for name in measured},
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{mode}.json").write_text(json.dumps(results, indent=1) + "\n")
    write_page(RESULTS, ROOT / "docs")
    say("written: docs/benchmarks.md")
    return 0


def machine() -> str:
    """Processor and cores."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
