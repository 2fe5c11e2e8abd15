"""A picture of benchmarks: speed over the length of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmx.bench.measure import Benchmark, Spread
from llmx.errors import UserError

INSTALL = "pip install 'llmx-core[plot]'"


def plot(benchmarks: Sequence[Benchmark], path: Path) -> None:
    """Write prefill and decoding speed as two panels; the file's suffix says the format.

    Raises:
        UserError: matplotlib is not installed, or knows no such format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("a plot needs the package matplotlib", remedy=INSTALL) from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for each in benchmarks:
        lengths = [speed.prompt for speed in each.speeds]
        for panel, rates in zip(
            panels,
            (
                [speed.prefill_rate for speed in each.speeds],
                [speed.decode_rate for speed in each.speeds],
            ),
            strict=True,
        ):
            panel.errorbar(
                lengths,
                [rate.median for rate in rates],
                yerr=_whiskers(rates),
                marker="o",
                capsize=3,
                label=each.name,
            )
    for panel, title in zip(panels, ("prefill", "decoding"), strict=True):
        panel.set_title(title)
        panel.set_xscale("log", base=2)
        panel.set_xticks(lengths, [str(length) for length in lengths])
        panel.set_xlabel("tokens of the prompt")
        panel.set_ylabel("tokens per second")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[1].legend()
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise UserError(
            f"cannot write {path}: {error}", remedy="use a suffix such as .svg or .png"
        ) from error


def _whiskers(rates: Sequence[Spread]) -> list[list[float]]:
    return [
        [rate.median - rate.low for rate in rates],
        [rate.high - rate.median for rate in rates],
    ]
