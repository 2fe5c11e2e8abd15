"""The help text of every command, as click prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from llmx.cli import COMMANDS, group

WIDTH = 88


def commands() -> str:
    """One section for each command."""
    return "\n".join(_sections())


def _sections() -> Iterator[str]:
    context = click.Context(group, info_name="llmx", max_content_width=WIDTH, terminal_width=WIDTH)
    yield from _section("llmx", group.get_help(context))
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name)
        yield from _section(f"llmx {name}", command.get_help(inner))


def _section(title: str, text: str) -> Iterator[str]:
    yield f"## {title}\n\n```text\n{text.strip()}\n```\n"
