"""Perplexity of a text, and agreement with the model that a program was made from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch import Tensor

from llmx.errors import UserError
from llmx.progress import Progress, Silent, Stages
from llmx.quiet import hushed
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.run.tokenizer import TextTokenizer
from llmx.verify.finding import divergence
from llmx.verify.reference import Reference
from llmx.verify.subject import Subject, find_reference

WINDOW = 512


@frozen
class Agreement:
    """How far predictions are from the reference's.

    Attributes:
        perplexity: the reference's own.
        divergence: mean Kullback-Leibler divergence from it, in nats per token.
        top1: share of tokens where both find the same one most likely.
    """

    perplexity: float
    divergence: float
    top1: float


@frozen
class TextScore:
    """What a program makes of a text.

    Attributes:
        tokens: how many were predicted: all but the first of each window.
        window: tokens that are read in one go; none knows those of the window before.
    """

    tokens: int
    window: int
    perplexity: float
    agreement: Agreement | None


def score_text(
    path: Path,
    text: str,
    *,
    tokenizer: Path | None = None,
    reference: str | None = None,
    family: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> TextScore:
    """Read ``text`` with the program itself, token by token where it gives the last logits only.

    Args:
        path: an artifact's folder, or a ``.pte``.
        tokenizer: used instead of the artifact's own.
        reference: checkpoint of the model to compare with; ``None`` compares with nothing.
        family: of ``reference``, where a ``.pte`` is alone and the checkpoint fits several.
        limit: most tokens to score.

    Raises:
        ArtifactError: the program or its tokenizer cannot be used.
        CheckpointError: ``reference`` cannot be used.
        UserError: the text is too short.
    """
    stages = Stages(progress or Silent())
    with hushed():
        subject = Subject.open(path)
        words = subject.load_tokenizer(tokenizer)
        with stages.stage("load"):
            info = read_program(subject.program)
            program = FedProgram(subject.program)
            windows = list(_windows(words, text, info.max_context_length, limit))
        model = None if reference is None else find_reference(subject, reference, family, stages)
        with stages.stage("score"):
            return _score(program, model, windows, stages)


def _windows(
    tokenizer: TextTokenizer, text: str, context: int, limit: int | None
) -> Iterator[list[int]]:
    """The text in pieces, each with a bos token where the tokenizer begins texts with one."""
    plain, document = tokenizer.encode(text), tokenizer.encode_document(text)
    begin = document[: len(document) - len(plain)]
    length = min(WINDOW, context) - len(begin)
    left = len(plain) if limit is None else min(limit, len(plain))
    if left + len(begin) < 2 or length < 1:
        raise UserError("the text is too short to score", remedy="give a few hundred words")
    for start in range(0, left, length):
        window = [*begin, *plain[start : min(start + length, left)]]
        if len(window) > 1:
            yield window


def _score(
    program: FedProgram, model: Reference | None, windows: Sequence[list[int]], stages: Stages
) -> TextScore:
    total = sum(len(window) - 1 for window in windows)
    ours = theirs = diverging = 0.0
    agreeing = done = 0
    for window in windows:
        expected = None if model is None else model.logits(window[:-1])
        for at, logits in enumerate(program.walk(window[:-1])):
            ours += _surprise(logits, window[at + 1])
            if expected is not None:
                theirs += _surprise(expected[at], window[at + 1])
                diverging += divergence(logits, expected[at])
                agreeing += int(logits.argmax()) == int(expected[at].argmax())
            done += 1
            stages.display.advanced(done, total, f"perplexity {math.exp(ours / done):.2f}")
    agreement = None
    if model is not None:
        agreement = Agreement(math.exp(theirs / done), diverging / done, agreeing / done)
    return TextScore(done, max(map(len, windows)), math.exp(ours / done), agreement)


def _surprise(logits: Tensor, token: int) -> float:
    """Negative log likelihood of ``token``, in nats."""
    return -float(torch.log_softmax(logits.double(), -1)[token])
