"""All checks of an exported model, in order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llmx.artifact import describe_files
from llmx.errors import LlmxError
from llmx.progress import Progress, Silent, Stages
from llmx.quantize.calibration import calibration_text
from llmx.quiet import hushed
from llmx.run.engine import Engine
from llmx.run.feeding import FedProgram
from llmx.run.program import ProgramInfo, read_program
from llmx.run.tokenizer import TextTokenizer, load_tokenizer
from llmx.verify.consistency import ANSWER, check_consistency
from llmx.verify.corpus import corpus
from llmx.verify.finding import (
    Finding,
    Findings,
    Judge,
    distance,
    exact_judge,
    judge_predictions,
    measured,
    skipped,
)
from llmx.verify.reach import END, LAST, check_end, check_end_of_empty, check_slide, slide_length
from llmx.verify.reference import Reference
from llmx.verify.runner import LONGEST_CONTEXT, answer_of, check_answer, check_context, check_ends
from llmx.verify.subject import Subject, find_reference
from llmx.verify.tokens import check_tokenizer

TEXT_LENGTH = 64
PROMPT_LENGTH = 12
QUANTIZED_DISTANCE = 1.0
"""A program of other weights is off by about 1.4."""
REFERENCE = "agrees with the checkpoint's own model"


def verify(
    path: Path,
    *,
    reference: str | None = None,
    family: str | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Make every check that is possible here.

    Args:
        path: an artifact's folder, or a ``.pte``.
        reference: checkpoint to compare with; else the one that the artifact was made from.
        family: of ``reference``, where a ``.pte`` is alone and the checkpoint fits several.

    Raises:
        ArtifactError: there is nothing that could be checked.
        CheckpointError: ``reference`` cannot be used.
    """
    stages = Stages(progress or Silent())
    with hushed():
        subject = Subject.open(path)
        return list(_findings(subject, reference, family, stages))


def _findings(
    subject: Subject, checkpoint: str | None, family: str | None, stages: Stages
) -> Findings:
    if "files" in subject.manifest:
        with stages.stage("hash"):
            yield _check_files(subject)
    info = read_program(subject.program)
    with stages.stage("load in the runner"):
        begun = time.perf_counter()
        engine = Engine(info)
        seconds = time.perf_counter() - begun
    yield Finding("loads in ExecuTorch's runner", True, detail=f"in {seconds:.1f} s")
    program = FedProgram(subject.program)
    tokenizer = None if subject.tokenizer is None else load_tokenizer(subject.tokenizer)
    sample = _Sample(program.vocabulary(info.any_token), tokenizer)
    text = sample.tokens(min(TEXT_LENGTH, max(2 * ANSWER, info.max_context_length // 2)))
    prompt = text[:PROMPT_LENGTH]
    with stages.stage("consistency"):
        yield from check_consistency(
            program, text[: info.max_context_length - ANSWER], bound=subject.bound
        )
    with stages.stage("runner"):
        yield check_answer(engine, prompt, answer_of(program, prompt))
        yield from check_ends(info, engine.uninterrupted(prompt, 8), prompt)
        yield from check_context(engine, prompt)
    try:
        model = find_reference(subject, checkpoint, family, stages)
    except LlmxError as error:
        if checkpoint is not None:
            raise
        yield skipped(REFERENCE, f"{error.message}; {error.remedy or ''}".rstrip("; "))
        if tokenizer is not None and subject.tokenizer is not None:
            yield check_tokenizer(tokenizer, subject.tokenizer)
        return
    yield from _check_against(subject, model, info, program, tokenizer, sample, text, stages)


def _check_files(subject: Subject) -> Finding:
    found = describe_files(subject.program.parent)
    changed = [
        name for name, entry in subject.manifest["files"].items() if found.get(name) != entry
    ]
    detail = f"not as llmx.json describes: {', '.join(changed)}" if changed else ""
    return Finding("are the files that were exported", not changed, detail=detail)


class _Sample:
    """Tokens to try the program on: of the corpus and of prose, or random ones.

    The latter without a tokenizer.
    """

    def __init__(self, vocabulary: Sequence[int], tokenizer: TextTokenizer | None) -> None:
        self._vocabulary = vocabulary
        encoded = (
            []
            if tokenizer is None
            else tokenizer.encode(" ".join([*corpus(), calibration_text(None)]))
        )
        known = frozenset(vocabulary)
        self._read = [each for each in encoded if each in known]

    def tokens(self, count: int) -> list[int]:
        """The first ``count``; where they are too few, again and again."""
        if len(self._read) >= TEXT_LENGTH:
            return [self._read[at % len(self._read)] for at in range(count)]
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(self._vocabulary), (count,), generator=generator)
        return [self._vocabulary[each] for each in drawn.tolist()]


def _check_against(
    subject: Subject,
    model: Reference,
    info: ProgramInfo,
    program: FedProgram,
    tokenizer: TextTokenizer | None,
    sample: _Sample,
    text: Sequence[int],
    stages: Stages,
) -> Findings:
    judge = exact_judge(subject.bound) if subject.exact else judge_predictions
    context = info.max_context_length
    with stages.stage("compare with the reference"):
        yield from _compare(program, model, text, subject, judge)
        longer = sample.tokens(slide_length(model.window or 0, context))
        yield from check_slide(program, model, longer, judge, noise=subject.bound)
        yield _check_end(subject, model, sample, context, judge)
    expected = set(model.token_ids().eos)
    detail = ", ".join(map(str, sorted(info.eos_ids)))
    yield Finding("end tokens are the checkpoint's", expected == info.eos_ids, detail=detail)
    if tokenizer is None:
        yield skipped("runtime tokenizer equals the checkpoint's", "there is no tokenizer")
        return
    with tempfile.TemporaryDirectory(prefix="llmx-") as folder:
        theirs = model.write_tokenizer(Path(folder)) or subject.tokenizer
        assert theirs is not None
        yield check_tokenizer(tokenizer, theirs)


def _check_end(
    subject: Subject, model: Reference, sample: _Sample, context: int, judge: Judge
) -> Finding:
    program = FedProgram(subject.program)
    if context <= LONGEST_CONTEXT:
        return check_end(program, model, sample.tokens(context), judge)
    if subject.exact and program.cached:
        return check_end_of_empty(program, model, sample.tokens(LAST), context, judge)
    # Rounding to integers moves what a model says far off that has no text to go by.
    return skipped(END, f"filling {context} tokens takes too long")


def _compare(
    program: FedProgram, model: Reference, text: Sequence[int], subject: Subject, judge: Judge
) -> Iterator[Finding]:
    """Logits behind each token of ``text``."""
    expected = model.logits(text)
    actual = torch.stack(list(program.walk(text)))
    if subject.exact:
        yield judge(REFERENCE, actual, expected, "difference of logits")
        return
    off = distance(actual, expected)
    yield measured(REFERENCE, off, QUANTIZED_DISTANCE, "difference of logits, quantized")
    yield judge("predicts as the checkpoint's own model", actual, expected, "")
