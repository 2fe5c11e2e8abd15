"""``llmx config``: the job that a command line makes, as YAML that ``--config`` reads back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import click
import yaml

from llmx.cli.job_options import EPILOG, JOB_CONTEXT, JobArguments, job_options
from llmx.config.keys import BACKEND
from llmx.config.loading import ResolvedJob
from llmx.config.values import NULLS


@click.command("config", context_settings=JOB_CONTEXT, epilog=EPILOG)
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(job: JobArguments, as_json: bool) -> None:
    """Show the job that these options make; comments say where each value was set."""
    resolved = job.resolve()
    if as_json:
        click.echo(json.dumps(resolved.job.to_dict(), indent=2))
    else:
        click.echo("\n".join(_lines(resolved)))


def _lines(resolved: ResolvedJob) -> Iterator[str]:
    return _render(resolved.job.to_dict(), (), resolved.origins)


def _render(
    values: Mapping[str, Any], path: tuple[str, ...], origins: Mapping[str, str]
) -> Iterator[str]:
    indent = "  " * len(path)
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, Mapping) and path in ((), (BACKEND,)):
            yield f"{indent}{name}:"
            yield from _render(value, here, origins)
        else:
            origin = origins.get(".".join(here))
            yield f"{indent}{name}: {_flow(value)}" + (f"  # {origin}" if origin else "")


def _flow(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, str) and ("\n" in value or value.lower() in NULLS):
        return json.dumps(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("\n...\n").rstrip("\n")
