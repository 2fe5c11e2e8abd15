"""What ``run`` and ``chat`` share: their options, and how an answer appears."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmx.config.methods import FORWARD

if TYPE_CHECKING:
    from llmx.run.generate import Generation, TextGenerator

F = TypeVar("F", bound=Callable[..., Any])

CLEAR_LINE = "\r\x1b[K"


def answer_options(function: F) -> F:
    """``tokenizer``, ``method`` and ``system``, and what :func:`arguments` takes."""
    for decorate in reversed(
        (
            click.option(
                "--tokenizer",
                type=click.Path(path_type=Path),
                help="tokenizer.json or tokenizer.model, for a bare .pte file.",
            ),
            click.option(
                "--method",
                default=FORWARD,
                help="Method of a program that has several, such as one per adapter.",
            ),
            click.option("--system", help="System message."),
            click.option(
                "--max-new-tokens",
                type=click.IntRange(min=1),
                help="Longest answer.  [default: what the context has room for]",
            ),
            click.option(
                "--stop",
                multiple=True,
                metavar="TEXT",
                help="Text that ends the answer; may be given several times.",
            ),
            click.option(
                "--temperature",
                type=click.FloatRange(min=0),
                help="0 takes the most likely token.  [default: what the publisher set, or 0]",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(min=0, max=1, min_open=True),
                help="Sample from the likeliest tokens that have this probability together.",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(min=0),
                help="Sample from this many of the likeliest tokens; 0 is all.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(min=0, min_open=True),
                help="Above 1, avoids tokens that the text has already.",
            ),
            click.option("--seed", type=int, help="Makes sampling repeatable."),
        )
    ):
        function = decorate(function)
    return function


def arguments(generator: TextGenerator, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as arguments of the generator's methods.

    Sampling that was not chosen is that of the model's publisher.
    """
    import attrs

    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    chosen = {name: given[name] for name in names if given[name] is not None}
    return {
        "max_new_tokens": given["max_new_tokens"],
        "stop": given["stop"],
        "sampling": attrs.evolve(generator.sampling, **chosen),
    }


def load(path: Path, tokenizer: Path | None, method: str = FORWARD) -> TextGenerator:
    """Load the model, and say so on a terminal for as long as it takes."""
    with _loading(path):
        from llmx.run.generate import TextGenerator

        return TextGenerator.open(path, tokenizer, method)


def write(piece: str) -> None:
    """Show a piece of the answer at once."""
    click.echo(piece, nl=False)
    sys.stdout.flush()


def end_answer(generation: Generation) -> None:
    """Finish the answer's last line, and tell on stderr how it went."""
    if not generation.text.endswith("\n"):
        click.echo()
    dim(statistics(generation))


def statistics(generation: Generation) -> str:
    """Counts and speeds in one line, and why the answer is cut short if it is."""
    cached = f" ({generation.cached_tokens} cached)" if generation.cached_tokens else ""
    parts = [
        f"prompt {generation.prompt_tokens} tokens{cached}{_speed(generation.prefill_rate)}",
        f"answer {generation.generated_tokens} tokens{_speed(generation.decode_rate)}",
    ]
    if generation.first_token_seconds:
        parts.append(f"first token after {_duration(generation.first_token_seconds)}")
    if generation.stop_reason in _CUT_SHORT:
        parts.append(_CUT_SHORT[generation.stop_reason])
    return " · ".join(parts)


_CUT_SHORT = {
    "max_new_tokens": "stopped at --max-new-tokens",
    "context": "stopped: the context is full, export with a larger --max-context-length",
    "interrupted": "interrupted",
}


def dim(line: str) -> None:
    """A line on stderr, dim where there are colours."""
    click.echo(click.style(line, dim=True) if stderr_is_colourful() else line, err=True)


def stderr_is_colourful() -> bool:
    """Whether stderr is a terminal, and colours were not declined."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _speed(rate: float | None) -> str:
    return "" if rate is None else f", {rate:.0f}/s"


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    click.echo(f"loading {path} …", nl=False, err=True)
    try:
        yield
    finally:
        click.echo(CLEAR_LINE, nl=False, err=True)
