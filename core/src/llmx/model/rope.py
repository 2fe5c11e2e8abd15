"""Rotary position embedding (Su et al., https://arxiv.org/abs/2104.09864), half-split layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llmx.model.ops import BuildOptions
from llmx.model.params import DecoderParams, FrequencyRope, LinearRope, LongRope


def inverse_frequencies(params: DecoderParams, max_context_length: int) -> tuple[Tensor, float]:
    """Frequencies [rotary_dim / 2] in radians per token (fp32), and the factor on cos and sin.

    Follows the ``rope_type`` definitions of Hugging Face ``transformers``
    (``modeling_rope_utils``), against which checkpoints are published.
    """
    exponents = torch.arange(0, params.rotary_dim, 2, dtype=torch.int64).float() / params.rotary_dim
    periods = params.rope_theta**exponents
    frequencies = 1.0 / periods
    match params.rope_scaling:
        case LinearRope(factor=factor):
            return frequencies / factor, 1.0
        case FrequencyRope() as scaling:
            return _frequency_scaled(frequencies, scaling), 1.0
        case LongRope() as scaling:
            return _longrope(periods, scaling, params.max_position, max_context_length)
    return frequencies, 1.0


def _frequency_scaled(frequencies: Tensor, scaling: FrequencyRope) -> Tensor:
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    # 0 for slow frequencies (fully scaled), 1 for fast ones (kept), linear in between.
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return frequencies * (blend + (1 - blend) / scaling.factor)


def _longrope(
    periods: Tensor, scaling: LongRope, max_position: int, max_context_length: int
) -> tuple[Tensor, float]:
    long_context = max_context_length > scaling.original_max_position
    factors = torch.tensor(scaling.long_factor if long_context else scaling.short_factor)
    attention_factor = scaling.attention_factor
    if attention_factor is None:
        ratio = max_position / scaling.original_max_position
        attention_factor = (
            math.sqrt(1 + math.log(ratio) / math.log(scaling.original_max_position))
            if ratio > 1
            else 1.0
        )
    # In this order: another rounding of the last bit shows after thousands of positions.
    return 1.0 / (factors * periods), attention_factor


class RotaryEmbedding(nn.Module):
    """cos and sin of the rotation angles at given positions.

    They are computed at run time, once per forward for all layers: a table would grow with the
    context length and has to be sliced at a dynamic offset. Elements past ``rotary_dim`` get
    cos 1 and sin 0, so that they pass through.
    """

    frequencies: Tensor

    def __init__(self, params: DecoderParams, build: BuildOptions) -> None:
        super().__init__()
        # Real values even while the model's parameters are built on the meta device.
        with torch.device("cpu"):
            frequencies, self.factor = inverse_frequencies(params, build.position_span)
        self.dtype = build.dtype
        half = params.rotary_dim // 2
        self.padding = params.head_dim - 2 * half
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [S], int64 -> cos, sin, each [1, S, 1, head_dim]."""
        cos, sin = self._cos_sin(positions)
        if self.factor != 1.0:
            cos, sin = cos * self.factor, sin * self.factor
        return self._shaped(cos, sin)

    def turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, to turn what is rotated already: without the factor on magnitudes."""
        return self._shaped(*self._cos_sin(positions))

    def _cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.float().unsqueeze(-1) * self.frequencies
        return angles.cos(), angles.sin()

    def _shaped(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        cos = torch.cat((cos, cos), dim=-1)
        sin = torch.cat((sin, sin), dim=-1)
        if self.padding:
            cos = nn.functional.pad(cos, (0, self.padding), value=1.0)
            sin = nn.functional.pad(sin, (0, self.padding), value=0.0)
        shape = (1, -1, 1, cos.shape[-1])
        return cos.view(shape).to(self.dtype), sin.view(shape).to(self.dtype)


class EndlessRotaryEmbedding(RotaryEmbedding):
    """For positions far beyond the model's context, of which only differences matter.

    fp32 holds angles to 1e-7 of their size: after a million tokens those of neighbours would
    differ by a random 0.1.
    """

    def _cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions.double().unsqueeze(-1) * self.frequencies.double()
        return angles.cos().float(), angles.sin().float()


class RotaryTable(RotaryEmbedding):
    """cos and sin looked up in tables, for hardware that computes in less than fp32.

    In fp16 the angle of a distant position is off by whole degrees, and positions past 2048 are
    no longer told apart; a rounded cos or sin is off in the last bit only.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, params: DecoderParams, build: BuildOptions) -> None:
        super().__init__(params, build)
        with torch.device("cpu"):
            cos, sin = super().forward(torch.arange(build.max_context_length))
        self.register_buffer("cos", cos[0, :, 0], persistent=False)
        self.register_buffer("sin", sin[0, :, 0], persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        # As embeddings: more backends look those up than select rows.
        cos = nn.functional.embedding(positions, self.cos)
        sin = nn.functional.embedding(positions, self.sin)
        shape = (1, -1, 1, cos.shape[-1])
        return cos.view(shape), sin.view(shape)


def rotary_embedding(params: DecoderParams, build: BuildOptions) -> RotaryEmbedding:
    """The flavour that the job's context needs."""
    kind = RotaryEmbedding if build.sinks is None else EndlessRotaryEmbedding
    return kind(params, build)


class RotateHalf(nn.Module):
    """(x1, x2, rest) -> (-x2, x1, rest) on the last dimension; x1 and x2 are rotary_dim / 2 wide.

    What ``rest`` becomes does not matter: it is multiplied by a sin of 0.
    """

    def __init__(self, head_dim: int, rotary_dim: int) -> None:
        super().__init__()
        self.ends = rotary_dim // 2, rotary_dim // 2 * 2, head_dim

    def forward(self, x: Tensor) -> Tensor:
        # Slices: a backend may take them where it takes no splits.
        middle, end, whole = self.ends
        first, second = x[..., :middle], x[..., middle:end]
        rest = (x[..., end:],) if end < whole else ()
        return torch.cat((-second, first, *rest), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, rotate_half: nn.Module) -> Tensor:
    """Rotate x [1, S, heads, head_dim] by the angles whose cos and sin are given."""
    rotated: Tensor = x * cos + rotate_half(x) * sin
    return rotated
