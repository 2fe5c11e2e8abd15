"""``llmx eval``: how good an exported model is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmx.errors import UserError

if TYPE_CHECKING:
    from llmx.progress import Progress
    from llmx.score.text import TextScore


@click.command("eval")
@click.argument("model", type=click.Path(path_type=Path), metavar="DIR|FILE.pte")
@click.option("--text", type=click.Path(path_type=Path), help="UTF-8 text to predict.")
@click.option("--task", "tasks", multiple=True, help="Task of lm_eval; may be repeated.")
@click.option(
    "--task-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with task files of one's own.",
)
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    help="Path or hub id of the weights to compare predictions with.",
)
@click.option("--family", help="Family of CHECKPOINT, for a .pte file that fits several.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="tokenizer.json or tokenizer.model, for a bare .pte file.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Most tokens of the text, or examples of a task."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    model: Path,
    text: Path | None,
    tasks: Sequence[str],
    task_folder: Path | None,
    reference: str | None,
    family: str | None,
    tokenizer: Path | None,
    limit: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Score an exported model: perplexity of a text, or tasks of lm_eval.

    The program itself is scored, as it is shipped. --reference adds how far its predictions are
    from the unquantized model's.
    """
    if (text is None) == (not tasks):
        raise click.UsageError("name a --text FILE, or a --task")
    if reference is not None and text is None:
        raise click.UsageError("--reference compares predictions of a --text")
    from llmx.cli.console import progress_display

    with progress_display(quiet=quiet) as progress:
        if text is not None:
            from llmx.score.text import score_text

            score = score_text(
                model,
                _read(text),
                tokenizer=tokenizer,
                reference=reference,
                family=family,
                limit=limit,
                progress=progress,
            )
        else:
            results = _run_tasks(model, tasks, task_folder, tokenizer, limit, progress)
    if text is not None:
        _show_score(score, as_json=as_json)
    else:
        _show_tasks(results, as_json=as_json)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", remedy="check its encoding") from error


def _run_tasks(
    model: Path,
    tasks: Sequence[str],
    folder: Path | None,
    tokenizer: Path | None,
    limit: int | None,
    progress: Progress,
) -> Mapping[str, Mapping[str, Any]]:
    from llmx.progress import Stages
    from llmx.score.harness import open_harness, run_tasks

    with Stages(progress).stage("tasks"):
        harness = open_harness(model, tokenizer, progress)
        return run_tasks(harness, tasks, folder=folder, limit=limit)


def _show_score(score: TextScore, *, as_json: bool) -> None:
    import attrs

    if as_json:
        click.echo(json.dumps(attrs.asdict(score), indent=2))
        return
    from llmx.cli.console import stdout, table

    made = table("measure", "value", "reference", "")
    agreement = score.agreement
    made.add_row(
        "perplexity",
        f"{score.perplexity:.3f}",
        "" if agreement is None else f"{agreement.perplexity:.3f}",
        f"{score.tokens} tokens in windows of {score.window}",
    )
    if agreement is not None:
        made.add_row("KL divergence", f"{agreement.divergence:.4f}", "", "nats a token, mean")
        made.add_row("top-1 agreement", f"{agreement.top1:.1%}", "", "same most likely token")
    stdout().print(made)


def _show_tasks(results: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(results, indent=2, default=str))
        return
    from rich.markup import escape

    from llmx.cli.console import stdout, table

    made = table("task", "metric", "value")
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, _, _ = name.partition(",")
            if isinstance(value, float) and not metric.endswith("_stderr"):
                made.add_row(escape(task), escape(metric), f"{value:.4f}")
    stdout().print(made)
