"""``llmx export``: a checkpoint in, a folder with a program out."""

from __future__ import annotations

import click

from llmx.cli.console import progress_display
from llmx.cli.job_options import EPILOG, JOB_CONTEXT, JobArguments, job_options


@click.command("export", context_settings=JOB_CONTEXT, epilog=EPILOG)
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print the artifact's llmx.json.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--no-cache", is_flag=True, help="Neither use nor keep results of earlier exports.")
@click.option("--force", is_flag=True, help="Begin even if the memory will not suffice.")
def command(job: JobArguments, as_json: bool, quiet: bool, no_cache: bool, force: bool) -> int:
    """Export a model to ExecuTorch.

    FAMILY is an installed model family (see `llmx models`); KEY=VALUE sets any option of
    `llmx config`, e.g. model.use_kv_cache=true.

    The exit code is 1, and llmx.json says so, if the runtime's tokenizer is not the model's.
    """
    resolved = job.resolve()
    from llmx.cache import NoStore, default_store
    from llmx.lower import export
    from llmx.lower.forecast import ignore_shortage, require_memory

    store = NoStore() if no_cache else default_store()
    memory = ignore_shortage if force else require_memory
    with progress_display(quiet=quiet) as progress:
        artifact = export(resolved.job, progress=progress, store=store, memory=memory)
    from llmx.cli.summary import report_export

    return report_export(artifact, as_json=as_json, verbose=resolved.job.debug.verbose)
