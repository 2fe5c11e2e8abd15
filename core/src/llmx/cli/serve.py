"""``llmx serve``: an exported model behind OpenAI's API."""

from __future__ import annotations

from pathlib import Path

import click

from llmx.artifact import MANIFEST_NAME, Artifact
from llmx.cli.answers import dim, load, statistics
from llmx.errors import UserError


@click.command("serve")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="0 takes any that is free.",
)
@click.option(
    "--api-key",
    envvar="LLMX_API_KEY",
    show_envvar=True,
    help="What clients must send; needed unless only this machine can reach the address.",
)
@click.option("--name", help="What clients call the model.  [default: the folder's name]")
@click.option(
    "--queue",
    "waiting",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Requests that may wait while one is answered; more are refused.",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Longest answer that a client can have.  [default: what the context has room for]",
)
def command(
    model: Path,
    host: str,
    port: int,
    api_key: str | None,
    name: str | None,
    waiting: int,
    max_new_tokens: int | None,
) -> int:
    """Serve an exported model to clients of OpenAI's API, and a page to chat in the browser."""
    _check_installed()
    from llmx.serve.listening import is_loopback, listen

    Artifact.open(model)
    if api_key is not None and not api_key.isascii():
        raise UserError("the API key has other characters than ASCII", remedy="choose another")
    if not api_key and not is_loopback(host):
        raise UserError(
            f"anybody who reaches {host} could use the model",
            remedy="set a key with --api-key or LLMX_API_KEY, or serve this machine only",
        )
    with listen(host, port) as listening:
        generator = load(model, None)
        from llmx.serve.app import Served
        from llmx.serve.server import serve

        served = Served(
            model=generator,
            name=name or model.resolve().name,
            created=int((model / MANIFEST_NAME).stat().st_mtime),
            most_new_tokens=max_new_tokens,
            report=lambda generation: dim(statistics(generation)),
            complain=lambda error: click.echo(f"error: {error}", err=True),
        )

        def announce(address: str) -> None:
            click.echo(f"{served.name} is at {address}/v1, to chat at {address}", err=True)
            dim(f"context {generator.context_length} tokens · Ctrl-C ends")

        serve(
            served,
            listening,
            host=host,
            api_key=api_key or None,
            waiting=waiting,
            ready=announce,
        )
    return 0


def _check_installed() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"llmx serve needs the package {error.name}",
            remedy="pip install 'llmx-core[serve]'",
        ) from error
