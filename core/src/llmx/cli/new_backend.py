"""``llmx new-backend``: the package of a backend that nobody has written yet."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new-backend")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write [llmx-backend-NAME]."
)
def command(name: str, output: Path | None) -> None:
    """Write an installable package for the backend NAME, with its test.

    It lowers nothing yet; the package's README lists what is left to do.
    """
    from llmx.plugins import BACKENDS
    from llmx.scaffold.backend import backend_package
    from llmx.scaffold.package import package_name, write_package

    package = package_name(name, "llmx-backend", BACKENDS)
    folder = output or Path(package.distribution)
    write_package(folder, backend_package(package))
    click.echo(f"wrote {folder}; {folder / 'README.md'} lists what is left to do")
    click.echo(f"next: pip install -e '{folder}[test]' && pytest {folder}")
