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
    context = _context(group, "llmx", None)
    yield from _section("llmx", group.get_help(context))
    for name in COMMANDS:
        command = group.get_command(context, name)
        assert command is not None
        inner = _context(command, name, context)
        yield from _section(f"llmx {name}", command.get_help(inner))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command,
        parent=parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )


def _section(title: str, text: str) -> Iterator[str]:
    yield f"## {title}\n\n```text\n{text.strip()}\n```\n"
