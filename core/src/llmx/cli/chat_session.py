"""The turns and commands of ``llmx chat``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from llmx.cli.answers import dim, end_answer, write
from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.run.chat import Conversation
    from llmx.run.generate import Generation

HELP = """\
/system TEXT  begin anew with this system message (without TEXT: with none)
/reset        begin anew
/save FILE    write the conversation as JSON
/help         this list
/quit         leave, as does Ctrl-D; Ctrl-C stops an answer"""


class Answers(Protocol):
    """How answers are written to stdout."""

    def piece(self, text: str) -> None:
        """A piece of the answer that is being made."""

    def end(self, generation: Generation) -> None:
        """The answer is complete."""


class TextAnswers:
    """As they come, with statistics on stderr."""

    def piece(self, text: str) -> None:
        """Show it at once."""
        write(text)

    def end(self, generation: Generation) -> None:
        """End the line."""
        end_answer(generation)


class JsonAnswers:
    """One JSON object a line."""

    def piece(self, text: str) -> None:
        """Wait for the rest."""

    def end(self, generation: Generation) -> None:
        """Write text and figures."""
        write(json.dumps(attrs.asdict(generation), ensure_ascii=False) + "\n")


class ChatSession:
    """A conversation that is steered by lines of text."""

    def __init__(
        self, conversation: Conversation, arguments: Mapping[str, Any], answers: Answers
    ) -> None:
        """Begin.

        Args:
            arguments: of :meth:`Conversation.say`, the same for each turn.
        """
        self._conversation = conversation
        self._arguments = arguments
        self._answers = answers
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._change_system,
            "/reset": lambda _: self._begin(conversation.system),
            "/save": self._save,
            "/help": lambda _: dim(HELP),
        }

    def turn(self, line: str) -> Generation | None:
        """Obey a command, or answer; ``None`` for a command.

        Raises:
            UserError: the line cannot be understood or answered, or a file not written.
        """
        word, _, rest = line.strip().partition(" ")
        if word in self._commands:
            self._commands[word](rest.strip())
            return None
        if word.startswith("/"):
            raise UserError(f"no command {word}", remedy="/help lists them")
        generation = self._conversation.say(line, **self._arguments, on_text=self._answers.piece)
        self._answers.end(generation)
        return generation

    def _change_system(self, text: str) -> None:
        self._begin(text or None)

    def _begin(self, system: str | None) -> None:
        self._conversation.reset(system=system)
        dim(f"new conversation, system message: {system or 'none'}")

    def _save(self, name: str) -> None:
        if not name:
            raise UserError("/save needs a file name", remedy="/save FILE")
        path, messages = Path(name).expanduser(), self._conversation.messages
        text = json.dumps({"messages": messages}, indent=2, ensure_ascii=False) + "\n"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise UserError(f"{path} is there already", remedy="choose another name") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {path}: {reason}", remedy="choose another") from error
        dim(f"wrote {len(messages)} messages to {path}")
