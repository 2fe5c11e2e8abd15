"""The model of LFM2 (https://arxiv.org/abs/2511.23404): gated short convolutions, and attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.decoder import Decoder
from llmx.model.feed_forward import FeedForward
from llmx.model.kv_cache import Core
from llmx.model.ops import BuildOptions, ModelOps


class Taps(nn.Module):
    """A causal convolution of each channel by itself, as the sum of shifted rows.

    Rows stay as they lie in memory, and products and sums are what backends delegate.
    """

    def __init__(self, dim: int, length: int, bias: bool) -> None:
        super().__init__()
        self.length = length
        self.weight = nn.Parameter(torch.empty(dim, 1, length))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, joined: Tensor) -> Tensor:
        """[1, length - 1 + S, dim], the rows of earlier tokens first, to [1, S, dim]."""
        last = self.length - 1
        taps = self.weight.view(-1, self.length)
        out = joined[:, last:] * taps[:, last]
        for tap in range(last):
            out = out + joined[:, tap : tap - last] * taps[:, tap]
        return out if self.bias is None else out + self.bias


class ShortConvolution(nn.Module):
    """``out(c * taps(b * x))`` with b, c and x from one projection."""

    def __init__(self, params: Any, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__()
        dim, bias = params.dim, params.conv_bias
        self.dim = dim
        self.in_proj = nn.Linear(dim, 3 * dim, bias=bias)
        self.conv = Taps(dim, params.conv_length, bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        self.recent = ops.recent(params.conv_length - 1, dim, build.dtype)

    def forward(self, x: Tensor, place: Any) -> Tensor:
        """x [1, S, dim], and the place of ``recent``."""
        b, c, rows = torch.split(self.in_proj(x), self.dim, dim=-1)
        out: Tensor = self.out_proj(c * self.conv(self.recent(b * rows, place)))
        return out


class ConvolutionLayer(nn.Module):
    """As a decoder's layer, with a convolution in place of attention."""

    def __init__(self, params: Any, ops: ModelOps, build: BuildOptions) -> None:
        super().__init__()
        self.conv_norm = ops.norm(params.dim, params.norm_eps)
        self.conv = ShortConvolution(params, ops, build)
        self.feed_forward_norm = ops.norm(params.dim, params.norm_eps)
        self.feed_forward = FeedForward(params, build.rotation())

    @property
    def core(self) -> Core:
        return self.conv.recent

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        x = x + self.conv(self.conv_norm(x), place)
        out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return out


class Lfm2(Decoder):
    """A decoder of which some layers attend and the others convolve."""

    def make_layer(self, index: int, params: Any, ops: ModelOps, build: BuildOptions) -> nn.Module:
        if params.attending[index]:
            return super().make_layer(index, params, ops, build)
        return ConvolutionLayer(params, ops, build)
