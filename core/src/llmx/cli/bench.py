"""``llmx bench``: how fast exported models are here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.bench.measure import Benchmark, Spread

MEGA = 1e6
Row = tuple[str, list[str], float | None]


@click.command("bench")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option(
    "--compare",
    "others",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another model, measured in turns with the first; may be repeated.",
)
@click.option("--lengths", help="Tokens of the prompts, e.g. 16,256.  [default: 16,64,256,1024]")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Measurements."
)
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="SVG or PNG to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    model: Path,
    others: Sequence[Path],
    lengths: str | None,
    rounds: int,
    picture: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure an exported model: load time, memory, time to the first token, tokens per second.

    Each model has a process of its own. Figures are medians, with least and most in brackets.
    """
    wanted = _parsed(lengths)
    from llmx.bench.measure import benchmark
    from llmx.cli.console import progress_display

    with progress_display(quiet=quiet) as progress:
        found = benchmark([model, *others], lengths=wanted, rounds=rounds, progress=progress)
    if picture is not None:
        from llmx.bench.plot import plot

        plot(found, picture)
    if as_json:
        import attrs

        click.echo(json.dumps([attrs.asdict(each) for each in found], indent=2))
        return
    _show(found)


def _parsed(lengths: str | None) -> list[int] | None:
    if lengths is None:
        return None
    try:
        return [int(word) for word in lengths.split(",")]
    except ValueError:
        raise UserError(
            f"--lengths {lengths}: expected numbers", remedy="for example --lengths 16,256"
        ) from None


def _show(found: Sequence[Benchmark]) -> None:
    from rich.markup import escape

    from llmx.cli.console import stdout, table

    ratio = [f"{found[1].name} / {found[0].name}"] if len(found) == 2 else []
    made = table("", *(escape(each.name) for each in found), *(escape(each) for each in ratio))
    for name, cells, quotient in _rows(found):
        last = [f"{quotient:.2f}"] if ratio and quotient is not None else [""] * len(ratio)
        made.add_row(name, *cells, *last)
    stdout().print(made)


def _rows(found: Sequence[Benchmark]) -> Iterator[Row]:
    loads = [each.load_seconds for each in found]
    yield "load", [f"{each:.2f} s" for each in loads], loads[-1] / loads[0]
    yield _memory_row("memory once loaded", [each.loaded_bytes for each in found])
    yield _memory_row("memory at the peak", [each.peak_bytes for each in found])
    before = [f"{each.before_bytes / MEGA:.0f} MB" for each in found]
    yield "  besides, Python's", before, None
    for speeds in zip(*(each.speeds for each in found), strict=True):
        prompt = speeds[0].prompt
        firsts = [each.first_token_seconds for each in speeds]
        yield _row(f"first token after {prompt}", firsts, "ms", 1000)
        yield _row(f"prefill of {prompt}", [each.prefill_rate for each in speeds], "tokens/s")
        yield _row(f"decoding after {prompt}", [each.decode_rate for each in speeds], "tokens/s")


def _memory_row(name: str, sizes: Sequence[int | None]) -> Row:
    cells = ["not known here" if each is None else f"{each / MEGA:.1f} MB" for each in sizes]
    first, last = sizes[0], sizes[-1]
    return name, cells, last / first if first and last else None


def _row(name: str, spreads: Sequence[Spread], unit: str, factor: int = 1) -> Row:
    cells = [
        f"{each.median * factor:.1f} {unit} ({each.low * factor:.1f} - {each.high * factor:.1f})"
        for each in spreads
    ]
    return name, cells, spreads[-1].median / spreads[0].median
