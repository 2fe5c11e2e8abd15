"""Write measured qualities into the docs: a table and a plot of divergence over size.

    .venv/bin/python benchmarks/quality.py --json rows.json ...
    .venv/bin/python benchmarks/quality_page.py rows.json

Replaces the table in docs/quantization.md and draws docs/images/quality.svg anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
TABLE = re.compile(r"\| program \| MB \|.*?\n(?=\n)", re.DOTALL)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 24, 20, 48
MEGA = 1e6

Row = Mapping[str, Any]
"""A row of ``quality.py --json``."""


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    exact = rows[0]["float_perplexity"]
    lines = [
        f"| program | MB | KL | perplexity (float: {exact:.2f}) |",
        "|---|---|---|---|",
        *(
            f"| {row['name']} | {row['bytes'] / MEGA:.1f} | {row['divergence']:.3f} "
            f"| {row['perplexity']:.2f} ({row['perplexity'] / exact - 1:+.0%}) |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row]) -> str:
    """SVG: a dot per program, small and faithful ones at the lower left."""
    sizes = [row["bytes"] / MEGA for row in rows]
    least, most = int(min(sizes)) - 2, int(max(sizes)) + 3
    highest = (int(max(row["divergence"] for row in rows) * 10) + 1) / 10

    def x(size: float) -> float:
        return LEFT + (size - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y(divergence: float) -> float:
        return HEIGHT - BOTTOM - divergence / highest * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for step in range(int(highest * 10) + 1):
        at = y(step / 10)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">'
            f"{step / 10:.1f}</text>"
        )
    parts.extend(
        f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" '
        f'fill="#555">{size}</text>'
        for size in range(least, most + 1, 2)
    )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle" fill="#222">'
        "size of the program in MB</text>"
    )
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2 - 10}) rotate(-90)" text-anchor="middle" '
        'fill="#222">divergence from float, nats per token</text>'
    )
    lowest = 0.0
    for row, size in sorted(
        zip(rows, sizes, strict=True), key=lambda each: y(each[0]["divergence"])
    ):
        # One label below the other where dots are close.
        lowest = label = max(y(row["divergence"]) + 4, lowest + 17)
        color = "#1a73a8" if row["name"].startswith("llmx") else "#b3541e"
        left = x(size) > WIDTH / 2
        parts.append(
            f'<circle cx="{x(size):.1f}" cy="{y(row["divergence"]):.1f}" r="5" fill="{color}"/>'
        )
        parts.append(
            f'<text x="{x(size) + (-10 if left else 10):.1f}" y="{label:.1f}" '
            f'text-anchor="{"end" if left else "start"}" fill="{color}">'
            f"{escape(row['name'])}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(path: Path) -> None:
    rows = json.loads(path.read_text("utf-8"))
    page = DOCS / "quantization.md"
    text, count = TABLE.subn(table(rows), page.read_text("utf-8"))
    if count != 1:
        raise SystemExit(f"{page} has {count} tables to replace")
    page.write_text(text, "utf-8")
    (DOCS / "images/quality.svg").write_text(plot(rows), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
