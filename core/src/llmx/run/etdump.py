"""A program run with ExecuTorch's event tracer, which writes down how long each step takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from llmx.errors import ArtifactError, LlmxError, UserError
from llmx.native import load_recording_program, register_operators
from llmx.quiet import native_stderr_captured, stderr_captured
from llmx.run.data import data_of
from llmx.run.program import ProgramInfo
from llmx.run.runtime import last_line

USUAL_CONTEXT = 128
ELSEWHERE = "run it where its backend is, with ETDump built in, and name the result: --etdump FILE"


def usual_context(program: ProgramInfo, tokens: int) -> int:
    """How many tokens come before the measured ones, if nobody says."""
    return min(USUAL_CONTEXT, (program.max_context_length - tokens) // 2) if program.kv_cache else 0


@contextmanager
def recorded_calls(
    program: ProgramInfo, *, tokens: int, context: int, calls: int
) -> Iterator[Path]:
    """An ETDump of ``calls`` equal calls of ``forward``; the file is gone afterwards.

    Args:
        tokens: in each call; 1 is decoding.
        context: how many tokens come before them. What they were does not matter for the time.

    Raises:
        UserError: the program does not take so many tokens.
        ArtifactError: it cannot be run here, or this runtime cannot record.
    """
    longest = program.max_seq_length if program.dynamic else 1
    if not 1 <= tokens <= longest:
        raise UserError(
            f"this program takes from 1 to {longest} tokens in a call, not {tokens}",
            remedy=f"use --tokens {longest}",
        )
    if context and not program.kv_cache:
        raise UserError("this program has no KV cache", remedy="leave --context out")
    if not 0 <= context <= program.max_context_length - tokens:
        raise UserError(
            f"{context} and {tokens} tokens do not fit {program.max_context_length}",
            remedy=f"use --context {program.max_context_length - tokens} or less",
        )
    inputs = [torch.full((1, tokens), program.any_token)]
    if program.kv_cache:
        inputs.append(torch.tensor([context]))
    with tempfile.TemporaryDirectory(prefix="llmx-") as folder:
        etdump = Path(folder) / "run.etdp"
        _run(program.path, inputs, calls, etdump)
        if not etdump.is_file() or not etdump.stat().st_size:
            raise ArtifactError("this build of the runtime cannot record calls", remedy=ELSEWHERE)
        yield etdump


def _run(path: Path, inputs: list[torch.Tensor], calls: int, etdump: Path) -> None:
    register_operators()
    # Native code logs to both.
    with data_of(path) as data, native_stderr_captured(), stderr_captured() as log:
        try:
            loaded = load_recording_program(path, data)
            method = loaded.load_method("forward")
        except RuntimeError as error:
            raise ArtifactError(
                f"{path} cannot be run here: {last_line(log) or error}", remedy=ELSEWHERE
            ) from error
        try:
            for _ in range(calls):
                method(inputs)
        except RuntimeError as error:
            raise LlmxError(f"the runtime failed: {last_line(log) or error}") from error
        loaded.write_etdump_result_to_file(str(etdump), str(etdump.with_suffix(".bin")))
