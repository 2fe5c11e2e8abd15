"""Models that read or say only some of their tokens: smaller tables under the same token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class InputTokens(nn.Module):
    """Token ids [1, S] int64 to rows of an embedding that holds ``kept`` only, in their order.

    Any other token is an error.
    """

    rows: Tensor
    existing: Tensor

    def __init__(self, kept: Sequence[int], vocab_size: int) -> None:
        super().__init__()
        rows = torch.full((vocab_size,), len(kept), dtype=torch.int32, device="cpu")
        rows[list(kept)] = torch.arange(len(kept), dtype=torch.int32, device="cpu")
        self.register_buffer("rows", rows)
        self.register_buffer("existing", torch.arange(len(kept), device="cpu"))

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.rows.index_select(0, tokens.view(-1))
        # A row that is not there fails here: the runtime's quantized embeddings would not return
        # an error for it but abort the process.
        return self.existing.index_select(0, rows).view(1, -1)


class OutputTokens(nn.Module):
    """Logits [..., kept] to logits [..., vocab], minus infinity for all other tokens."""

    kept: Tensor

    def __init__(self, kept: Sequence[int], vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.register_buffer("kept", torch.tensor(list(kept), device="cpu"))

    def forward(self, logits: Tensor) -> Tensor:
        size = (*logits.shape[:-1], self.vocab_size)
        silent = torch.full(size, float("-inf"), dtype=logits.dtype, device=logits.device)
        return silent.index_copy(-1, self.kept, logits)
