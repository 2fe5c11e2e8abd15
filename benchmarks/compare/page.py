"""``docs/benchmarks.md`` and its plots, from the results that were kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
US = "llmx"
COMMANDS = {"full": "make bench", "quick": "make bench QUICK=1"}
Row = tuple[str, Callable[[Any], float], Callable[[float], str], bool]


def rows(tools: Mapping[str, Any]) -> list[Row]:
    """(what, figure of a tool, how it is written, whether more is better)."""
    some = next(iter(tools.values()))
    listed: list[Row] = [
        ("export, CPU seconds", lambda each: each["export"]["cpu_s"], "{:.0f}".format, False),
        ("export, wall seconds", lambda each: each["export"]["wall_s"], "{:.0f}".format, False),
        ("export, peak memory, GB", lambda each: each["export"]["peak_bytes"] / 1e9, _two, False),
        ("program, MB", lambda each: each["bytes"] / 1e6, "{:.1f}".format, False),
        ("load, ms", lambda each: 1e3 * statistics.median(each["load_s"]), "{:.0f}".format, False),
    ]
    for kind, unit in (("prefill", "prefill of {} tokens"), ("decode", "decode at position {}")):
        listed.extend(
            (f"{unit.format(case)}, tokens/s", _speed(kind, case), _whole, True)
            for case in some[kind]
        )
    listed.append(("divergence, mean KL", lambda each: each["kl"]["mean"], _two, False))
    listed.append(("divergence, median KL", lambda each: each["kl"]["median"], _two, False))
    return listed


def _speed(kind: str, case: str) -> Callable[[Any], float]:
    return lambda each: statistics.median(each[kind][case])


def _whole(figure: float) -> str:
    return f"{figure:.0f}"


def _two(figure: float) -> str:
    return f"{figure:.2f}"


def write_page(results: Path, docs: Path) -> None:
    """Write the page and one plot per kept result."""
    sections = []
    for mode in ("full", "quick"):
        path = results / f"{mode}.json"
        if path.exists():
            result = json.loads(path.read_text())
            plot = docs / "images" / f"benchmarks-{mode}.svg"
            plot.parent.mkdir(exist_ok=True)
            draw(result, plot)
            sections.append(section(mode, result, f"images/{plot.name}"))
    parts = [(HERE / "introduction.md").read_text(), *sections, (HERE / "findings.md").read_text()]
    (docs / "benchmarks.md").write_text("\n".join(parts))


def section(mode: str, result: Mapping[str, Any], plot: str) -> str:
    """Heading, table and plot of one result."""
    tools = result["tools"]
    others = [name for name in tools if name != US]
    head = ["", *tools, *(f"{US} to {name}" for name in others)]
    lines = [
        f"## {'All' if mode == 'full' else 'The first'} {result['layers']} layers",
        "",
        f"`{COMMANDS[mode]}`, {result['date']}, {result['machine']}; "
        + ", ".join(f"{name} {each}" for name, each in result["versions"].items())
        + f"; {result['rounds']} rounds.",
        "",
        *([result["remark"], ""] if "remark" in result else []),
        _line(head),
        _line(["---"] + ["---:"] * (len(head) - 1)),
    ]
    for what, figure, written, more in rows(tools):
        cells = [written(figure(each)) + _spread(what, each) for each in tools.values()]
        ratios = [
            _ratio(figure(tools[US]), figure(tools[name]), more_is_better=more) for name in others
        ]
        lines.append(_line([what, *cells, *ratios]))
    return "\n".join([*lines, "", f"![The same figures as bars]({plot})", ""])


def _spread(what: str, tool: Mapping[str, Any]) -> str:
    """Quartiles of a speed."""
    for kind in ("prefill", "decode"):
        if what.startswith(kind):
            case = what.split(",")[0].split()[-2 if kind == "prefill" else -1]
            low, _, high = statistics.quantiles(tool[kind][case], n=4)
            return f" ({low:.0f} to {high:.0f})"
    return ""


def _ratio(ours: float, theirs: float, *, more_is_better: bool) -> str:
    """How many times faster or smaller ours is; below 1 it is worse."""
    return f"{(ours / theirs if more_is_better else theirs / ours):.2f}x"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Bars: a panel per figure, a bar per tool; speeds with their quartiles."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot

    tools = result["tools"]
    listed = [row for row in rows(tools) if "median KL" not in row[0] and "load" not in row[0]]
    columns = 4
    figure, axes = pyplot.subplots(
        -(-len(listed) // columns), columns, figsize=(12, 5.2), layout="constrained"
    )
    colours = ("#2a6f97", "#c9ada7", "#9a8c98")
    for axis in axes.flat[len(listed) :]:
        axis.set_axis_off()
    for axis, (what, value, written, more) in zip(axes.flat, listed, strict=False):
        heights = [value(each) for each in tools.values()]
        bars = axis.bar(range(len(tools)), heights, color=colours[: len(tools)])
        axis.bar_label(bars, [written(height) for height in heights], fontsize=8)
        axis.set_title(f"{what}\n({'more' if more else 'less'} is better)", fontsize=8)
        axis.set_xticks([])
        axis.margins(y=0.2)
        axis.tick_params(labelsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours[: len(tools)]]
    figure.legend(handles, list(tools), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
