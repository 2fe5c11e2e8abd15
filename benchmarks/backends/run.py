"""The real SmolLM2-135M-Instruct, all 30 layers, lowered by each backend that lowers here.

    .venv/bin/python benchmarks/backends/run.py [NAME ...]

Exports what is named, or everything that is possible here, one after the other and without the
cache; adds the figures to ``results.json`` beside this file, and writes the table of
``docs/backends/index.md`` anew. Backends whose packages want an environment of their own are added
by running this with that environment's Python.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from fetch_smollm2 import fetch  # noqa: E402

RESULTS = Path(__file__).parent / "results.json"
PAGE = ROOT / "docs" / "backends" / "index.md"
BUILD = ROOT / "build" / "backends"
TABLE = re.compile(r"\| export \| program, MB \|.*?\n(?=\n)", re.DOTALL)
MEGA = 1e6
WITHOUT_TEXT = ["--method", "search"]
"""What is compared is lowering."""
EXPORTS: Mapping[str, list[str]] = {
    "xnnpack": ["--backend", "xnnpack", *WITHOUT_TEXT],
    "portable": ["--backend", "portable"],
    "vulkan": ["--backend", "vulkan", *WITHOUT_TEXT],
    "coreml": ["--backend", "coreml"],
    "coreml prefill": ["--backend", "coreml", "--recipe", "prefill"],
    "openvino": ["--backend", "openvino"],
    "mlx": ["--backend", "mlx", *WITHOUT_TEXT],
    "tosa": ["--backend", "tosa"],
    "ethosu": ["--backend", "ethosu"],
}
"""By name: which backend, and which of its recipes if not the default."""


def main() -> int:
    """Export, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPORTS)}")
    named = parser.parse_args().names
    unknown = [each for each in named if each not in EXPORTS]
    if unknown:
        parser.error(f"no export {', '.join(unknown)}; there are {', '.join(EXPORTS)}")
    weights = fetch()
    failed = False
    for name in named or EXPORTS:
        row = measured(name, weights)
        failed |= row is None
        if row is not None:
            rows = {**read_rows(), name: row}
            ordered = {each: rows[each] for each in EXPORTS if each in rows}
            RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
            write_page(ordered)
    return int(failed)


def read_rows() -> dict[str, Any]:
    """What was measured so far, by export."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def measured(name: str, weights: Path) -> Mapping[str, Any] | None:
    """Figures of one export; ``None`` if it is not possible here, which is said."""
    folder = BUILD / name.replace(" ", "-")
    command = ["export", "smollm2", "--size", "135m", "--checkpoint", str(weights), "--no-cache"]
    words = [*command, *EXPORTS[name], "-o", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "llmx.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        lines = done.stdout.strip().splitlines()
        sys.stdout.write(f"{name}: {' '.join(lines[-2:])}\n")
        return None
    manifest = json.loads((folder / "llmx.json").read_text(encoding="utf-8"))
    row = {
        "options": " ".join(EXPORTS[name]),
        "bytes": manifest["program"]["bytes"],
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "subgraphs": manifest["delegation"]["subgraphs"],
        "outside": sum(
            each["other"]
            for each in manifest["delegation"]["operators"]
            if each["operator"] != "getitem"
        ),
        "checks": [
            {key: each[key] for key in ("name", "figure", "bound", "passed")}
            for each in manifest["checks"]
            if "equals eager" in each["name"]
        ],
    }
    sys.stdout.write(f"{name}: {json.dumps(row)}\n")
    sys.stdout.flush()
    return row


def table(rows: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| export | program, MB | CPU seconds | delegates | nodes outside | compared with eager |",
        "|---|---|---|---|---|---|",
        *(
            f"| `{row['options']}` | {row['bytes'] / MEGA:.1f} | {row['cpu_seconds']:.0f} "
            f"| {row['subgraphs']} | {row['outside']} | {compared(row['checks'])} |"
            for row in rows.values()
        ),
    ]
    return "\n".join(lines) + "\n"


def compared(checks: list[Mapping[str, Any]]) -> str:
    """The worst of the checks, in words."""
    if not checks:
        return "not here: no runtime"
    worst = max(checks, key=lambda each: each["figure"] / each["bound"])
    return f"yes, {worst['figure']:.2g} (bound {worst['bound']:g})"


def write_page(rows: Mapping[str, Any]) -> None:
    """Put the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(rows), text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
