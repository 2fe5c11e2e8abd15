"""``llmx new-family``: the package of a family that nobody has written yet."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new-family")
@click.argument("name")
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="Hub id, folder or config.json of a model of that family.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write [llmx-plugin-NAME]."
)
def command(name: str, source: str | None, revision: str | None, output: Path | None) -> None:
    """Write an installable package for the family NAME, with its test.

    With --from, sizes, names of tensors and ids of tokens are the model's own. What could not be
    known is listed in the package's README.
    """
    from llmx.plugins import FAMILIES
    from llmx.scaffold.family import family_package, notes
    from llmx.scaffold.package import package_name, write_package

    package = package_name(name, "llmx-plugin", FAMILIES)
    found = None
    if source is not None:
        from llmx.scaffold.description import describe

        found = describe(source, revision)
    folder = output or Path(package.distribution)
    write_package(folder, family_package(package, found))
    click.echo(f"wrote {folder}; {folder / 'README.md'} lists what could not be known")
    for each in notes(found) if found else ():
        click.echo(f"still to do: {each}")
    click.echo(f"next: pip install -e '{folder}[test]' && pytest {folder}")
