"""Does the exported program compute what the eager model computes?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llmx.config.methods import FORWARD
from llmx.quiet import native_stderr_captured
from llmx.run.expansion import quick_expansion
from llmx.run.large_linears import large_linears_in_blocks
from llmx.run.runtime import ProgramMethod
from llmx.spool import Spool
from llmx.verify.finding import Finding, distance, measured

PROMPT_LENGTH = 12
DECODED = 2
FLOAT_BOUNDS = {torch.float32: 0.002, torch.float16: 0.05, torch.bfloat16: 0.3}
INT8_ACTIVATIONS_BOUND = 0.5


def parity_bound(dtype: torch.dtype, *, int8_activations: bool) -> float:
    """Difference of logits that rounding explains: root mean square over their deviation.

    Programs in fp32 differ by the order of sums, in narrow types by rounding in every operator.
    Activations that are rounded to int8 in every layer make a model chaotic: nudging the
    embedding of a real one of 30 layers by one part in a million moved its own logits by 0.2 to
    0.35. A wrong program is off by 1 and more.
    """
    floats = FLOAT_BOUNDS[dtype]
    return max(floats, INT8_ACTIVATIONS_BOUND) if int8_activations else floats


def check_parity(
    program: Path,
    model: nn.Module,
    spool: Spool,
    *,
    bound: float,
    kv_cache: bool,
    dynamic: bool,
    max_seq_length: int,
    vocabulary: Sequence[int],
    method: str = FORWARD,
) -> list[Finding]:
    """Run a short prompt and a few decoding steps through both, and compare logits.

    The figure is the root mean square difference over the deviation of the eager logits.
    ``vocabulary`` has the token ids that the model reads; ``spool`` holds the model's weights.
    """
    said = "" if method == FORWARD else f"{method}: "
    length = max(1, min(PROMPT_LENGTH, max_seq_length - DECODED))
    tokens = _drawn(vocabulary, length + DECODED)
    calls = list(_calls(tokens, length, kv_cache=kv_cache, dynamic=dynamic))
    expected = _expected(model, spool, [inputs for _, inputs in calls])
    compiled = ProgramMethod(program, method)
    return [
        measured(f"{said}{name}", distance(compiled(*inputs).float(), wanted), bound)
        for (name, inputs), wanted in zip(calls, expected, strict=True)
    ]


def check_prefill(
    program: Path,
    model: nn.Module,
    spool: Spool,
    *,
    bound: float,
    method: str,
    length: int,
    vocabulary: Sequence[int],
) -> list[Finding]:
    """Have ``method`` read a piece of ``length`` tokens, and ``forward`` the token after it.

    The latter needs what the former left in the state that they share. Arguments and figures are
    those of ``check_parity``.
    """
    tokens = _drawn(vocabulary, length + 1)
    calls = [
        (tokens[:, :length], torch.tensor([0])),
        (tokens[:, length:], torch.tensor([length])),
    ]
    expected = _expected(model, spool, calls)
    forward = ProgramMethod(program)
    names = f"{method}: prefill equals eager", f"{method}: decode at {length} equals eager"
    return [
        measured(name, distance(call(*inputs).float(), wanted), bound)
        for name, call, inputs, wanted in zip(
            names, (forward.beside(method), forward), calls, expected, strict=True
        )
    ]


def _drawn(vocabulary: Sequence[int], count: int) -> Tensor:
    """Tokens [1, count]."""
    generator = torch.Generator().manual_seed(0)
    return torch.tensor(vocabulary)[torch.randint(len(vocabulary), (1, count), generator=generator)]


def _expected(model: nn.Module, spool: Spool, calls: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """What the eager model gives, call by call."""
    # One after the other, so that the weights are not held by both.
    # The custom operators' eager versions log every call.
    with (
        torch.no_grad(),
        native_stderr_captured(),
        quick_expansion(model),
        large_linears_in_blocks(model),
        spool.letting_go(model),
    ):
        return [model(*inputs).float() for inputs in calls]


def _calls(
    tokens: Tensor, length: int, *, kv_cache: bool, dynamic: bool
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    if not kv_cache:
        yield "prompt equals eager", (tokens[:, :length],)
        yield "longer prompt equals eager", (tokens,)
        return
    start = 0
    if dynamic:
        yield "prefill equals eager", (tokens[:, :length], torch.tensor([0]))
        start = length
    for position in range(start, tokens.shape[1]):
        yield (
            f"decode at {position} equals eager",
            (tokens[:, position : position + 1], torch.tensor([position])),
        )
