"""``llmx chat``: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.artifact import Artifact
from llmx.cli.answers import answer_options, arguments, dim, load, stderr_is_colourful
from llmx.cli.chat_session import ChatSession, JsonAnswers, TextAnswers
from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.run.generate import Generation

INTERRUPTED = 130
PROMPT = "> "
LEAVE = ("/quit", "/exit")


@click.command("chat")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR")
@answer_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer.")
def command(
    model: Path,
    tokenizer: Path | None,
    method: str,
    system: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Talk to an exported chat model.

    Each line is a turn. With stdin from a pipe, only the answers are written to stdout.
    """
    if Artifact.open(model).chat_template is None:
        raise UserError(f"{model} has no chat template", remedy=f"use: llmx run {model}")
    from llmx.run.chat import Conversation

    generator = load(model, tokenizer, method)
    session = ChatSession(
        Conversation(generator, system=system),
        arguments(generator, given),
        JsonAnswers() if as_json else TextAnswers(),
    )
    if sys.stdin.isatty() and sys.stdout.isatty():
        dim(f"context {generator.context_length} tokens · /help lists commands, Ctrl-D leaves")
        _talk(session, _typed_lines())
        return 0
    return _recite(session, _piped_lines())


def _talk(session: ChatSession, lines: Iterator[str]) -> None:
    """With a person, who can react to an error."""
    for line in lines:
        try:
            session.turn(line)
        except UserError as error:
            _complain(error)
        click.echo(err=True)


def _recite(session: ChatSession, lines: Iterator[str]) -> int:
    """With a script; the first error ends it."""
    for line in lines:
        generation: Generation | None = session.turn(line)
        if generation is not None and generation.stop_reason == "interrupted":
            return INTERRUPTED
    return 0


def _typed_lines() -> Iterator[str]:
    """Lines that a person types, with editing and history where the platform has readline."""
    try:
        import readline  # noqa: F401
    except ImportError:
        dim("line editing is not available here")
    while True:
        try:
            line = input(PROMPT)
        except KeyboardInterrupt:
            click.echo()
            continue
        except EOFError:
            click.echo()
            return
        if line.strip() in LEAVE:
            return
        if line.strip():
            yield line


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError("stdin is not valid UTF-8", remedy="check its encoding") from error
        if text in LEAVE:
            return
        if text:
            yield text


def _complain(error: UserError) -> None:
    message = f"error: {error.message}"
    click.echo(click.style(message, fg="red") if stderr_is_colourful() else message, err=True)
    if error.remedy:
        click.echo(f"  {error.remedy}", err=True)
