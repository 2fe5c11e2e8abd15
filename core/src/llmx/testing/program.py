"""Tiny programs: exported as users do, run by ExecuTorch's runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmx.artifact import Artifact
from llmx.cli import invoke
from llmx.errors import ConfigError
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod

NO_BACKEND = "none"  # as --backend takes it
CONTEXT = 48
CALL = 14  # less than a tiny model's window, so that its rings go round within the context


def export_tiny(family: str, checkpoint: Path, output: Path, *more: str) -> Artifact:
    """Export without quantization by the command line, through the family's default backend.

    A family that names no backend is exported for the portable kernels of the runtime. ``more``
    are further words of the command. Skips the test if this machine cannot run what that backend
    produces.
    """
    try:
        backend = load(family, None).family.default_backend()
    except ConfigError:  # its author has not chosen one yet, and several or none are installed
        backend = NO_BACKEND
    reason = None if backend == NO_BACKEND else load(None, backend).backend.runtime()
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    command = ["export", family, "--checkpoint", str(checkpoint), "--output", str(output)]
    lengths = ["--max-seq-length", str(CALL), "--max-context-length", str(CONTEXT)]
    # With --debug errors are raised.
    plain = ["--backend", backend, "--quantize", "none", "--no-cache", "--quiet", "--debug"]
    assert invoke([*command, *lengths, *plain, *more]) == 0
    return Artifact.open(output)


def program_logits(path: Path, tokens: Tensor, *, pieces: list[int]) -> tuple[list[int], Tensor]:
    """Feed tokens [1, S] in pieces of these lengths to a program that has read nothing yet.

    Returns:
        The position of each piece's last token, and the logits there [pieces, vocab].
    """
    return feed(ProgramMethod(path), tokens, pieces=pieces)


def feed(method: ProgramMethod, tokens: Tensor, *, pieces: list[int]) -> tuple[list[int], Tensor]:
    """The same for a loaded program, whose caches hold what it was given before."""
    ends: list[int] = []
    outputs = []
    start = 0
    for length in pieces:
        outputs.append(method(tokens[:, start : start + length], torch.tensor([start]))[0])
        start += length
        ends.append(start - 1)
    return ends, torch.stack(outputs)
