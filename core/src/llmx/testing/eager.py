"""The eager model that an export would lower, with a checkpoint's weights, for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from llmx.checkpoint import Checkpoint, WeightMap, apply, plan
from llmx.hookspecs import FamilySpec
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams
from llmx.progress import Silent
from llmx.quantize.load import load_weights
from llmx.quantize.rounding import largest_value


@frozen
class Loaded:
    """What became of a checkpoint: ``used`` are the stored tensors that were read."""

    checkpoint: Checkpoint
    params: DecoderParams
    model: nn.Module
    used: frozenset[str]


def load_eager(
    family: FamilySpec,
    source: Path,
    *,
    max_context_length: int,
    longest_call: int | None = None,
    default_max_position: int | None = None,
) -> Loaded:
    """Open, convert and load a checkpoint through the family's hooks, in fp32.

    Args:
        max_context_length: tokens that a text may have.
        longest_call: most tokens in one call, which decides how long rings are.
        default_max_position: for layouts that do not say how long a context may be.
    """
    checkpoint = family.load_checkpoint(
        source=str(source), revision=None, params=None, progress=Silent()
    )
    given = {"max_position_embeddings": default_max_position} if default_max_position else {}
    params = family.params_from_hf(config={**given, **checkpoint.config})
    options = BuildOptions(
        dtype=torch.float32,
        max_context_length=max_context_length,
        longest_call=longest_call or max_context_length,
        full_logits=True,
    )
    ops = plain_ops(kv_cache=True, fused_attention=False, int8_cache=False)
    with torch.device("meta"):
        model = family.build_model(params=params, ops=ops, build=options)
    tied = {"embedding.weight": "head.weight"} if params.tied_embeddings else {}
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name not in tied.values()
    }
    recorder: Any = _Recorder(checkpoint)
    converted = family.convert_weights(checkpoint=recorder, params=params)
    if isinstance(converted, WeightMap):
        converted = apply(plan(converted, recorder, shapes), recorder)
    records = load_weights(
        model, converted, {}, ops=ops, dtype=torch.float32, tied=tied, rounding=largest_value
    )
    for _ in records:
        pass
    return Loaded(checkpoint, params, model.eval(), frozenset(recorder.names))


class _Recorder:
    """A checkpoint that remembers what was read from it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checkpoint, name)

    def read(self, name: str) -> Tensor:
        self.names.add(name)
        return self._checkpoint.read(name)


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor, pieces: list[int]) -> Tensor:
    """Logits [S, vocab] of tokens [1, S], given to the model in pieces of these lengths."""
    outputs = []
    start = 0
    for length in pieces:
        outputs.append(model(tokens[:, start : start + length], torch.tensor([start]))[0])
        start += length
    return torch.cat(outputs)
