"""``llmx chat``: a conversation in the terminal, or over a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.artifact import Artifact
from llmx.cli.answers import answer_options, dim, end_answer, load, stderr_is_colourful, write
from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.run.chat import Conversation
    from llmx.run.generate import Generation

INTERRUPTED = 130
PROMPT = "> "
HELP = """\
/system TEXT  begin anew with this system message (without TEXT: with none)
/reset        begin anew
/help         this list
/quit         leave, as does Ctrl-D; Ctrl-C stops an answer"""


@click.command("chat")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR")
@answer_options
def command(
    model: Path,
    tokenizer: Path | None,
    system: str | None,
    max_new_tokens: int | None,
    temperature: float | None,
) -> int:
    """Talk to an exported chat model.

    Each line is a turn. With stdin from a pipe, only the answers are written to stdout.
    """
    if Artifact.open(model).chat_template is None:
        raise UserError(f"{model} has no chat template", remedy=f"use: llmx run {model}")
    from llmx.run.chat import Conversation

    generator = load(model, tokenizer)
    chat = _Chat(Conversation(generator, system=system), system, max_new_tokens, temperature)
    if sys.stdin.isatty() and sys.stdout.isatty():
        dim(f"context {generator.context_length} tokens · /help lists commands, Ctrl-D leaves")
        chat.talk(_typed_lines())
        return 0
    return chat.recite(_piped_lines())


class _Chat:
    """The turns and commands of a session."""

    def __init__(
        self,
        conversation: Conversation,
        system: str | None,
        max_new_tokens: int | None,
        temperature: float | None,
    ) -> None:
        self._conversation = conversation
        self._system = system
        self._limits: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
        }
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._change_system,
            "/reset": self._reset,
            "/help": lambda _: dim(HELP),
        }

    def talk(self, lines: Iterator[str]) -> None:
        """With a person, who can react to an error."""
        for line in lines:
            try:
                self._turn(line)
            except UserError as error:
                _complain(error)
            click.echo(err=True)

    def recite(self, lines: Iterator[str]) -> int:
        """With a script; the first error ends it."""
        for line in lines:
            generation = self._turn(line)
            if generation is not None and generation.stop_reason == "interrupted":
                return INTERRUPTED
        return 0

    def _turn(self, line: str) -> Generation | None:
        word, _, rest = line.strip().partition(" ")
        if word in self._commands:
            self._commands[word](rest.strip())
            return None
        if word.startswith("/"):
            raise UserError(f"no command {word}", remedy="/help lists them")
        generation = self._conversation.say(line, **self._limits, on_text=write)
        end_answer(generation)
        return generation

    def _change_system(self, text: str) -> None:
        self._system = text or None
        self._reset("")

    def _reset(self, _: str) -> None:
        self._conversation.reset(system=self._system)
        dim(f"new conversation, system message: {self._system or 'none'}")


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
        if line.strip() in ("/quit", "/exit"):
            return
        if line.strip():
            yield line


def _piped_lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError("stdin is not valid UTF-8", remedy="check its encoding") from error
        if text in ("/quit", "/exit"):
            return
        if text:
            yield text


def _complain(error: UserError) -> None:
    message = f"error: {error.message}"
    click.echo(click.style(message, fg="red") if stderr_is_colourful() else message, err=True)
    if error.remedy:
        click.echo(f"  {error.remedy}", err=True)
