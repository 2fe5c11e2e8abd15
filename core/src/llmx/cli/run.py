"""``llmx run``: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.cli.answers import answer_options, arguments, end_answer, load, write
from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.run.generate import Generation, TextGenerator

INTERRUPTED = 130
STDIN = "-"


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option("-p", "--prompt", help="What to say; - reads it from stdin, as does a pipe.")
@click.option("--raw", is_flag=True, help="Complete the prompt as it stands, without template.")
@answer_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: Path,
    prompt: str | None,
    raw: bool,
    tokenizer: Path | None,
    method: str,
    system: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Answer a prompt with an exported model, or complete it if the model is no chat model."""
    text = _prompt(prompt)
    generator = load(model, tokenizer, method)
    how = arguments(generator, given)
    if not as_json:
        how["on_text"] = write
    generation = _answer(generator, text, system, how, raw=raw)
    if as_json:
        click.echo(json.dumps(_to_json(generation), indent=2, ensure_ascii=False))
    else:
        end_answer(generation)
    return INTERRUPTED if generation.stop_reason == "interrupted" else 0


def _prompt(given: str | None) -> str:
    if given is not None and given != STDIN:
        return given
    if given is None and sys.stdin.isatty():
        raise click.UsageError("nothing to say: give --prompt TEXT, or pipe it in")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError("stdin is not valid UTF-8", remedy="check its encoding") from error


def _answer(
    generator: TextGenerator, text: str, system: str | None, how: dict[str, Any], *, raw: bool
) -> Generation:
    if not raw and generator.template is not None:
        from llmx.run.chat import Conversation

        return Conversation(generator, system=system).say(text, **how)
    if system is not None:
        raise UserError(
            "a system message needs a chat template", remedy="leave out --system, or --raw"
        )
    return generator.complete(text, **how)


def _to_json(generation: Generation) -> dict[str, Any]:
    import attrs

    return attrs.asdict(generation)
