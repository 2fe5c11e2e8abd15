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
from llmx.quiet import hushed
from llmx.run.engine import Engine
from llmx.run.feeding import FedProgram
from llmx.run.program import ProgramInfo, read_program
from llmx.run.tokenizer import TextTokenizer, load_tokenizer
from llmx.verify.consistency import ANSWER, check_consistency
from llmx.verify.corpus import corpus
from llmx.verify.finding import Finding, Findings, distance, divergence, measured, skipped
from llmx.verify.reference import Reference
from llmx.verify.runner import check_answer, check_context, check_ends
from llmx.verify.subject import Subject, find_reference
from llmx.verify.tokens import check_tokenizer

TEXT_LENGTH = 64
PROMPT_LENGTH = 12
QUANTIZED_DISTANCE = 1.0
"""A program of other weights is off by about 1.4."""
DIVERGENCE_BOUND = 1.5
"""Mean divergence in nats per token; plain 4-bit rounding of a small model makes about 0.8."""
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
    text = _text(info, program.vocabulary(info.any_token), tokenizer)
    prompt = text[:PROMPT_LENGTH]
    with stages.stage("consistency"):
        yield from check_consistency(
            program, text[: info.max_context_length - ANSWER], bound=subject.bound
        )
    with stages.stage("runner"):
        yield check_answer(engine, program, prompt)
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
    yield from _check_against(subject, model, info, program, tokenizer, text, stages)


def _check_files(subject: Subject) -> Finding:
    found = describe_files(subject.program.parent)
    changed = [
        name for name, entry in subject.manifest["files"].items() if found.get(name) != entry
    ]
    detail = f"not as llmx.json describes: {', '.join(changed)}" if changed else ""
    return Finding("are the files that were exported", not changed, detail=detail)


def _text(
    info: ProgramInfo, vocabulary: Sequence[int], tokenizer: TextTokenizer | None
) -> list[int]:
    """Tokens to try the program on: of the corpus, or random ones without a tokenizer."""
    length = min(TEXT_LENGTH, max(2 * ANSWER, info.max_context_length // 2))
    if tokenizer is not None:
        known = frozenset(vocabulary)
        encoded = tokenizer.encode(" ".join(corpus()))
        tokens = [each for each in encoded if each in known][:length]
        if len(tokens) == length:
            return tokens
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(vocabulary), (length,), generator=generator)
    return [vocabulary[each] for each in drawn.tolist()]


def _check_against(
    subject: Subject,
    model: Reference,
    info: ProgramInfo,
    program: FedProgram,
    tokenizer: TextTokenizer | None,
    text: Sequence[int],
    stages: Stages,
) -> Findings:
    with stages.stage("compare with the reference"):
        yield from _compare(program, model, text, subject)
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


def _compare(
    program: FedProgram, model: Reference, text: Sequence[int], subject: Subject
) -> Iterator[Finding]:
    """Logits behind each token of ``text``."""
    expected = model.logits(text)
    actual = torch.stack(list(program.walk(text)))
    off = distance(actual, expected)
    if subject.quantized is False:
        yield measured(REFERENCE, off, subject.bound, "difference of logits")
        return
    yield measured(REFERENCE, off, QUANTIZED_DISTANCE, "difference of logits, quantized")
    pairs = list(zip(actual, expected, strict=True))
    mean = sum(divergence(*pair) for pair in pairs) / len(pairs)
    agreeing = sum(int(a.argmax()) == int(b.argmax()) for a, b in pairs) / len(pairs)
    yield measured(
        "predicts as the checkpoint's own model",
        mean,
        DIVERGENCE_BOUND,
        f"KL in nats a token; {agreeing:.0%} of the most likely tokens are the same",
    )
