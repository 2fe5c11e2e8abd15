"""The last few rows of a sequence, kept between calls: what a short convolution looks back on.

Unlike a KV cache, which has a place for each token, this holds what the *last* call left. A text
is continued where it ended, or begun anew at position 0; it cannot go back, and no call may have
tokens that do not belong to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmx.model.kv_cache import Core
from llmx.model.rope import RotaryEmbedding


class RecentRows(Core):
    """Puts ``count`` rows of the calls before in front of a call's: [1, S, width] to
    [1, count + S, width].

    Before the beginning of a text, rows are 0, whatever text there was earlier.
    """

    rows: Tensor

    def __init__(self, count: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = count
        size = (1, count, width)
        self.register_buffer("rows", torch.zeros(size, dtype=dtype, device="cpu"))

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> Tensor:
        """[1] of bool: whether the call continues a text."""
        return positions[:1] > 0

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        nothing = torch.zeros((), dtype=x.dtype, device=x.device)
        # Not a product: what an earlier text left may be infinite.
        joined = torch.cat((torch.where(place, self.rows, nothing), x), dim=1)
        self.rows.copy_(joined[:, -self.count :])
        return joined


class NoRecentRows(Core):
    """The same where nothing is kept between calls: every call is a whole text."""

    def __init__(self, count: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.count = count

    def place(self, positions: Tensor, start: int, rope: RotaryEmbedding) -> None:
        """Nothing to know."""

    def forward(self, x: Tensor, place: None) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, self.count, 0))
