"""``llmx backends``: the installed backends, or the options of one."""

from __future__ import annotations

import json
from typing import Any

import attrs
import click

from llmx.available import absent_backends
from llmx.cli.models import listing
from llmx.config.backends import backend_keys
from llmx.config.keys import Key
from llmx.plugins import BACKENDS, installed, load
from llmx.quiet import hushed, native_stderr_captured


@click.command("backends")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List backends, installed and not, or the options and recipes of NAME."""
    if name is None:
        listing(
            installed(BACKENDS),
            as_json,
            "no backend is installed; they are packages usually called llmx-backend-NAME",
        )
        if not as_json:
            _show_absent()
        return
    details = _details(name)
    if as_json:
        click.echo(json.dumps(details, indent=2))
    else:
        _show(details)


def _show_absent() -> None:
    missing = absent_backends()
    if missing:
        click.echo("\nnot installed:")
    width = max(map(len, missing), default=0)
    for name, command_line in missing.items():
        click.echo(f"{name:<{width}}   {command_line}")


def _details(name: str) -> dict[str, Any]:
    plugins = load(None, name)
    source = plugins.backend_source
    assert source is not None
    with hushed(), native_stderr_captured():
        problem = plugins.backend.runtime()
    return {
        "name": source.name,
        "distribution": source.distribution,
        "version": source.version,
        "options": [_option(key) for key in backend_keys(source.name).values()],
        "recipes": list(plugins.backend.recipes()),
        "runs_here": problem is None,
        "why_not": problem,
    }


def _option(key: Key) -> dict[str, Any]:
    return {
        "key": key.name,
        "expected": key.expected,
        "default": None if key.default is attrs.NOTHING else key.default,
        "doc": key.doc,
    }


def _show(details: dict[str, Any]) -> None:
    from rich.markup import escape

    from llmx.cli.console import stdout, table

    console = stdout()
    console.print(f"{details['name']} ({details['distribution']} {details['version']})")
    runs = "yes" if details["runs_here"] else f"no: {details['why_not']}"
    console.print(f"runs on this machine: {escape(runs)}\n")
    options = table("option", "value", "default", "meaning")
    for each in details["options"]:
        options.add_row(
            *(escape(str(each[column])) for column in ("key", "expected", "default", "doc"))
        )
    console.print(options)
    console.print(f"\nrecipes: {escape(', '.join(details['recipes']))}")
