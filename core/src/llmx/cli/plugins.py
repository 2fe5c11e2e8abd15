"""``llmx plugins``: what is installed, which hooks it implements, and what is broken."""

from __future__ import annotations

import json
from typing import Any

import click

from llmx.compatibility import implementations
from llmx.errors import PluginError
from llmx.plugins import BACKENDS, FAMILIES, Installed, duplicates, import_plugin, installed


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List each plugin with the hooks that it implements, or why it does not work."""
    found = [*_describe_group(FAMILIES), *_describe_group(BACKENDS)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found:
        click.echo(f"{each['kind']} {each['name']}   {each['distribution']} {each['version']}")
        if each["error"]:
            click.echo(f"  error: {each['error']}")
        else:
            click.echo(f"  hooks: {', '.join(each['hooks'])}")
    if not found:
        click.echo("no plugin is installed")


def _describe_group(group: str) -> list[dict[str, Any]]:
    plugins = installed(group)
    twice = duplicates(plugins)
    return [_describe(each, is_duplicate=each.name in twice) for each in plugins]


def _describe(plugin: Installed, *, is_duplicate: bool) -> dict[str, Any]:
    hooks: list[str] = []
    error = "this name is installed twice: uninstall one" if is_duplicate else None
    try:
        hooks = list(implementations(import_plugin(plugin)))
    except PluginError as problem:
        error = problem.message
    return {
        "name": plugin.name,
        "kind": plugin.kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "hooks": hooks,
        "error": error,
    }
