"""The checks that every export ends with, where its program can be run: a few seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from llmx.memory import give_back
from llmx.run.engine import Engine
from llmx.run.feeding import FedProgram
from llmx.run.program import read_program
from llmx.verify.consistency import ANSWER, check_consistency
from llmx.verify.finding import Finding, Findings
from llmx.verify.runner import answer_of, check_answer

LENGTH = 20
SPOKEN = 4


def check_quickly(program: Path, *, bound: float) -> list[Finding]:
    """Consistency on a short text, and a few tokens in the runner.

    Args:
        bound: for differences of logits over their deviation.
    """
    return [each for each in _findings(program, bound) if each.passed is not None]


def _findings(path: Path, bound: float) -> Findings:
    # What ran it before has let go of its weights.
    give_back()
    info = read_program(path)
    program = FedProgram(path)
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, info.max_context_length - ANSWER)
    if length >= 2 * ANSWER:
        known = torch.tensor(program.vocabulary(info.any_token))
        tokens = known[torch.randint(len(known), (length,), generator=generator)].tolist()
        yield from check_consistency(program, tokens, bound=bound)
        expected = answer_of(program, tokens[:ANSWER], SPOKEN)
        # One after the other, so that the weights are not held by both.
        del program
        give_back()
        yield check_answer(Engine(info), tokens[:ANSWER], expected)
