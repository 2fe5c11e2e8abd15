"""The decoder-only transformer that most families are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.attention import Attention
from llmx.model.feed_forward import FeedForward
from llmx.model.kv_cache import Core
from llmx.model.ops import BuildOptions, ModelOps
from llmx.model.params import DecoderParams
from llmx.model.vocabulary import InputTokens, OutputTokens


def positions_of(tokens: Tensor, input_pos: Tensor | None) -> tuple[Tensor, int]:
    """Positions [S] of a call's tokens [1, S], and the first as a number; ``input_pos`` [1]."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    start: int = 0
    if input_pos is not None:
        positions = positions + input_pos
        # Read once for all layers: each .item() would be a new symbol with its own checks.
        start = input_pos[0].item()  # type: ignore[assignment]
        torch._check(start >= 0)  # type: ignore[no-untyped-call]
    return positions, start


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(
        self, index: int, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> None:
        super().__init__()
        self.attention_norm = ops.norm(params.dim, params.norm_eps)
        self.attention = Attention(index, params, ops, build)
        self.feed_forward_norm = ops.norm(params.dim, params.norm_eps)
        self.feed_forward = FeedForward(params, build.rotation())

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, place)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Decoder(nn.Module):
    """Embedding, layers, final norm and head; a subclass may change the parts that it makes.

    Built on any device, usually ``meta``: every weight is assigned by ``quantize.load``.
    ``head.weight`` is a parameter of its own even where the checkpoint ties it to the embedding,
    since the two are quantized differently.

    Args:
        params: shapes and arithmetic.
        ops: the backend's flavours of norm, rope and attention.
        build: dtype, context length, vocabulary and which logits to give.
    """

    def __init__(self, params: DecoderParams, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__()
        self.full_logits = build.full_logits
        vocab_size, inputs, outputs = params.vocab_size, build.inputs, build.outputs
        self.inputs = nn.Identity() if inputs is None else InputTokens(inputs, vocab_size)
        self.embedding: nn.Module = nn.Embedding(len(inputs or range(vocab_size)), params.dim)
        self.rope = ops.rotary(params, build)
        self.layers = nn.ModuleList(
            self.make_layer(index, params, ops, build) for index in range(params.n_layers)
        )
        self.norm = self.make_norm(params, ops)
        self.head = nn.Linear(params.dim, len(outputs or range(vocab_size)), bias=False)
        self.outputs = nn.Identity() if outputs is None else OutputTokens(outputs, vocab_size)

    def forward(self, tokens: Tensor, input_pos: Tensor | None = None) -> Tensor:
        """tokens [1, S] int64, input_pos [1] int64 (position of the first; absent: 0).

        Returns logits [1, vocab] of the last position, or [1, S, vocab] with ``full_logits``.
        """
        positions, start = positions_of(tokens, input_pos)
        # Before the first layer, so that those of one kind stay the same program.
        angles = self.angles(positions)
        places = self._places(positions, start)
        x = self.embed(self.inputs(tokens))
        for layer, core, (cos, sin) in zip(self.layers, self._cores(), angles, strict=True):
            x = layer(x, cos, sin, places[core.kind])
        if not self.full_logits:
            x = x[:, -1]
        logits: Tensor = self.outputs(self.head(self.norm(x)))
        return logits

    # What another architecture changes.

    def make_layer(
        self, index: int, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> nn.Module:
        """A layer: forward(x [1, S, dim], cos, sin, place).

        Its ``core``, or its ``attention.core``, keeps something between calls and says what the
        place is: attention's keys and values, or what ``ops.recent`` keeps.
        Layers that differ in more than shapes and windows say so by an attribute ``kind``: those
        of equal kinds are lowered once.
        """
        return Layer(index, params, ops, build)

    def make_norm(self, params: DecoderParams, ops: ModelOps) -> nn.Module:
        """The norm before the head."""
        return ops.norm(params.dim, params.norm_eps)

    def embed(self, rows: Tensor) -> Tensor:
        """Rows of the table [1, S] int64 to hidden states [1, S, dim]."""
        out: Tensor = self.embedding(rows)
        return out

    def angles(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """cos and sin [1, S, 1, head_dim] of positions [S], for each layer that there is."""
        return [self.rope(positions)] * len(self.layers)

    def _places(self, positions: Tensor, start: int) -> Mapping[Hashable, Any]:
        """What layers of the same kind share in this call."""
        cores = {core.kind: core for core in self._cores()}
        return {kind: core.place(positions, start, self.rope) for kind, core in cores.items()}

    def _cores(self) -> list[Core]:
        layers: Any = self.layers
        found = (getattr(layer, "core", None) or layer.attention.core for layer in layers)
        return list(found)
