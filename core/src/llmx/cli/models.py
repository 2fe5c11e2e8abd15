"""``llmx models``: the installed families, or the sizes of one."""

from __future__ import annotations

import json

import click
from rich.markup import escape

from llmx.model.params import DecoderParams, ModelSize
from llmx.plugins import FAMILIES, Installed, duplicates, installed, load


@click.command("models")
@click.argument("family", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(family: str | None, as_json: bool) -> None:
    """List the installed families, or the sizes of FAMILY."""
    if family is None:
        _list_families(as_json)
    else:
        _list_sizes(family, as_json)


def listing(plugins: list[Installed], as_json: bool, advice: str) -> None:
    """Name, distribution and version of each plugin, from metadata alone."""
    rows = [
        {"name": each.name, "distribution": each.distribution, "version": each.version}
        for each in plugins
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(advice)
        return
    twice = duplicates(plugins)
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        remark = "   installed twice" if row["name"] in twice else ""
        click.echo(f"{row['name']:<{width}}   {row['distribution']} {row['version']}{remark}")


def readable_count(number: int) -> str:
    """A parameter count as people say it: ``135M``, ``1.24B``."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)


def _list_families(as_json: bool) -> None:
    listing(
        installed(FAMILIES),
        as_json,
        "no family is installed; they are packages usually called llmx-plugin-NAME",
    )


def _list_sizes(family: str, as_json: bool) -> None:
    sizes = load(family, None).family.sizes()
    rows = [
        _row(name, size, is_default=not index) for index, (name, size) in enumerate(sizes.items())
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"{family} has no sizes of its own; it reads what --checkpoint names")
        return
    from llmx.cli.console import stdout, table

    shown = table("size", "parameters", "layers", "context", "hub id")
    for row in rows:
        shown.add_row(
            f"{row['size']} (default)" if row["default"] else str(row["size"]),
            readable_count(int(row["parameters"])),
            str(row["layers"]),
            str(row["context"]),
            _linked(str(row["hub_repo"]), str(row["config_url"])),
        )
    stdout().print(shown)


def _linked(text: str, address: str) -> str:
    """Terminals that know links open ``address``, the source of the row; others show the text."""
    return f"[link={address}]{escape(text)}[/link]" if address else escape(text)


def _row(name: str, size: ModelSize, *, is_default: bool) -> dict[str, str | int | bool]:
    params: DecoderParams = size.params
    return {
        "size": name,
        "parameters": params.parameter_count,
        "layers": params.n_layers,
        "context": params.max_position,
        "hub_repo": size.hub_repo,
        "config_url": size.config_url,
        "default": is_default,
    }
