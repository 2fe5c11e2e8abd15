"""The command line. Each command's file is imported only when that command runs."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from llmx import __version__
from llmx.errors import LlmxError
from llmx.memory import rare_collections

_python_shows = warnings.showwarning

INTERRUPTED = 130
TERMINATED = 143
DEBUG = "--debug"
PATIENT_THREADS = "OMP_WAIT_POLICY", "PASSIVE"
"""An environment variable that OpenMP reads when PyTorch is loaded, and its value."""
SERIAL_PRODUCTS = "MKL_NUM_THREADS", "1"
"""Likewise of the library that PyTorch multiplies float matrices with."""
RUNNERS = frozenset({"run", "chat", "serve", "bench", "profile"})
"""Commands that only run a program; what they compute in PyTorch itself does not matter."""

COMMANDS = {
    "export": "Turn a checkpoint into an ExecuTorch program.",
    "reweight": "Put other weights into an exported model.",
    "config": "Show the job that these options make, without exporting.",
    "run": "Complete a prompt with an exported model.",
    "chat": "Talk to an exported model.",
    "serve": "Serve an exported model to clients of OpenAI's API.",
    "verify": "Check that an exported model runs, ends and computes what it should.",
    "eval": "Score an exported model: perplexity, agreement with its checkpoint, tasks.",
    "bench": "Measure load time, memory and speed, also of several models in turns.",
    "profile": "Show where an exported model spends its time, layer by layer.",
    "inspect": "Show what is in a .pte file.",
    "models": "List the installed families, or the sizes of one.",
    "backends": "List backends, installed and not, or the options of one.",
    "recipes": "List the recipes that a job can start from.",
    "cache": "Show or clear what earlier exports left for later ones.",
    "doctor": "Check versions, memory, disk, the hub and the backends.",
    "new-family": "Write the package of a new family, from a model's own files.",
    "new-backend": "Write the package of a new backend.",
    "plugins": "List what is installed and which hooks it implements.",
}


class LazyGroup(click.Group):
    """Commands by name: ``llmx.cli.<name>``, with ``_`` for ``-``, holds ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"llmx.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from llmx.names import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmx")
@click.option(DEBUG, is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def group() -> None:
    """Export LLMs to ExecuTorch."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    # Scratch folders are removed on the way out, which the default handler does not give time for.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    warnings.showwarning = _show_warning
    # PyTorch's threads would wait for each other at full speed, and keep a processor from whatever
    # else is to run on it: with one other busy process, operators take ten times as long.
    os.environ.setdefault(*PATIENT_THREADS)
    given = sys.argv[1:] if arguments is None else arguments
    if RUNNERS.intersection(given[:2]):  # --debug may come first
        # ExecuTorch's attention calls that library from each of its own threads, in whose way the
        # library's threads are: prompts take a third longer.
        os.environ.setdefault(*SERIAL_PRODUCTS)
    with rare_collections():
        code = invoke(given)
        # Else all that was imported is looked through once more on the way out, for half a second.
        gc.freeze()
    sys.exit(code)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; errors become lines on stderr and an exit code."""
    debug = DEBUG in arguments
    try:
        words = [word for word in arguments if word != DEBUG]
        result = group.main(words or ["--help"], prog_name="llmx", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        _report(
            f"error: {error.format_message()}",
            f"see `{context.command_path} --help`" if context else None,
        )
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except LlmxError as error:
        if debug:
            raise
        _report(f"error: {error.message}", error.remedy)
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        summary = str(error).strip().partition("\n")[0]
        _report(
            f"internal error: {type(error).__name__}: {summary}",
            f"run again with {DEBUG} for the traceback",
        )
        return 1


def _show_warning(
    message: Warning | str, category: type[Warning], *place: Any, **more: Any
) -> None:
    """What llmx itself announces is a note; the rest looks as Python shows it."""
    from llmx.compatibility import LlmxDeprecationWarning

    if issubclass(category, LlmxDeprecationWarning):
        click.echo(f"note: {message}", err=True)
    else:
        _python_shows(message, category, *place, **more)


def _report(problem: str, remedy: str | None) -> None:
    click.echo(click.style(problem, fg="red") if _colours() else problem, err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)


def _colours() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
