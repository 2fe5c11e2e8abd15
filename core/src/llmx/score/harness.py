"""Tasks of EleutherAI's ``lm_eval``, answered by an exported program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.errors import UserError
from llmx.progress import Progress
from llmx.quiet import hushed
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.verify.subject import Subject

INSTALL = "pip install 'llmx-core[eval]'"


def run_tasks(
    model: Any, tasks: Sequence[str], *, folder: Path | None, limit: int | None
) -> Mapping[str, Mapping[str, Any]]:
    """Metrics by task.

    Args:
        model: from :func:`open_harness`.
        folder: with task files of one's own, which win over those that ``lm_eval`` brings.
        limit: most examples of each task.

    Raises:
        UserError: there is no such task.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        raise UserError(
            f"lm_eval has no task {', '.join(unknown)}",
            remedy="list them with: lm_eval ls tasks",
        )
    found = simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=0
    )
    results: Mapping[str, Mapping[str, Any]] = found["results"]
    return results


def open_harness(path: Path, tokenizer: Path | None, progress: Progress) -> Any:
    """An exported model as a model of ``lm_eval``.

    Args:
        path: an artifact's folder, or a ``.pte``.
        tokenizer: used instead of the artifact's own.

    Raises:
        ArtifactError: the program or its tokenizer cannot be used.
        UserError: ``lm_eval`` is not installed.
    """
    subject = Subject.open(path)
    words = subject.load_tokenizer(tokenizer)
    try:
        from llmx.score.harness_model import HarnessModel
    except ImportError as error:
        raise UserError("tasks need the package lm_eval", remedy=INSTALL) from error
    with hushed():
        info = read_program(subject.program)
        return HarnessModel(FedProgram(subject.program), info, words, progress)
