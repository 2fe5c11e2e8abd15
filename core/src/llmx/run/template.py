"""Chat templates: Jinja, rendered as Hugging Face's tokenizers do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmx.errors import UserError


class ChatTemplate:
    """A model's way to write a conversation as one text.

    The template comes with the model and is not trusted: it runs in Jinja's sandbox, where it can
    neither reach Python's internals nor change what it is given.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile the template.

        Args:
            special_tokens: spellings by name, ``bos_token`` and ``eos_token``; a token that the
                model does not have is left out.

        Raises:
            UserError: it is no valid Jinja.
        """
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise UserError(
                f"the chat template is not valid, line {error.lineno}: {error.message}",
                remedy="correct it in llmx.json, or complete texts with llmx run --raw",
            ) from error

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text up to where the assistant begins to speak.

        Raises:
            UserError: the template does not accept these messages.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        # The template is a program of its own and may fail in any way.
        except Exception as error:
            raise UserError(
                f"the chat template does not accept this conversation: {error}",
                remedy="some models know no system message, or want user and assistant in turns",
            ) from error


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}``, a mark for training; only its body counts."""

    tags = {"generation"}  # noqa: RUF012 (jinja's class attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    # Templates make plain text for a tokenizer; escaping for HTML would corrupt it.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[loopcontrols, _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape for HTML and sort the keys."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:  # noqa: A002 (the name that templates use)
    return datetime.now().strftime(format)
