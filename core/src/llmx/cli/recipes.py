"""``llmx recipes``: the named starting points of the installed backends."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from llmx.config.recipe import Recipe
from llmx.plugins import BACKENDS, installed, load


@click.command("recipes")
@click.argument("backend", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(backend: str | None, as_json: bool) -> None:
    """List the recipes of the installed backends, or of BACKEND with every setting."""
    names = [each.name for each in installed(BACKENDS)] if backend is None else [backend]
    recipes = {name: load(None, name).backend.recipes() for name in names}
    if as_json:
        click.echo(
            json.dumps(
                {
                    name: {
                        recipe: {"doc": each.doc, "settings": dict(each.settings)}
                        for recipe, each in found.items()
                    }
                    for name, found in recipes.items()
                },
                indent=2,
            )
        )
    elif backend is None:
        _list(recipes)
    else:
        _show(recipes[backend])


def _show(recipes: Mapping[str, Recipe]) -> None:
    """Each recipe with its purpose and its settings, one per line."""
    from rich.markup import escape

    from llmx.cli.console import stdout

    console = stdout()
    for name, recipe in recipes.items():
        console.print(f"recipe {escape(name)}: {escape(recipe.doc)}")
        for key, value in recipe.settings.items():
            console.print(f"  {escape(f'{key}={value}')}")


def _list(recipes: Mapping[str, Mapping[str, Recipe]]) -> None:
    from rich.markup import escape

    from llmx.cli.console import stdout, table

    shown = table("backend", "recipe", "for")
    for backend, found in recipes.items():
        for name, recipe in found.items():
            shown.add_row(*(escape(each) for each in (backend, name, recipe.doc)))
    stdout().print(shown)
