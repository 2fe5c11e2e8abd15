"""From the eager model to an exported program."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from llmx.errors import LoweringError
from llmx.lower.tidy import tidy

TRACED_LENGTH = 8


def example_inputs(
    *, kv_cache: bool, dynamic: bool, max_seq_length: int, fixed: int = 1
) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Dim] | None, ...] | None]:
    """Inputs of ``forward`` as the runner passes them, and which dimensions vary.

    tokens is [1, S] int64 with S up to ``max_seq_length``, or ``fixed`` if not dynamic (1: the
    runner feeds the prompt token by token); with a KV cache, input_pos [1] int64 follows.
    """
    length = min(TRACED_LENGTH, max_seq_length) if dynamic else fixed
    tokens = torch.zeros(1, length, dtype=torch.int64)
    inputs = (tokens, torch.zeros(1, dtype=torch.int64)) if kv_cache else (tokens,)
    if not dynamic:
        return inputs, None
    varying: dict[int, Dim] = {1: Dim("seq_length", min=1, max=max_seq_length)}
    return inputs, (varying, None) if kv_cache else (varying,)


def capture(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[dict[int, Dim] | None, ...] | None,
) -> ExportedProgram:
    """``torch.export`` without guards that depend on the example's values.

    ``model`` is in evaluation mode.

    Raises:
        LoweringError: the model cannot be traced; torch's reason is chained.
    """
    _register_shapes()
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, inputs, dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:
        raise LoweringError(
            f"torch.export failed: {_first_line(error)}", remedy="run again with --debug"
        ) from error
    return tidy(program)


def _register_shapes() -> None:
    """Tell PyTorch the shapes of what the custom attention operators give."""
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
