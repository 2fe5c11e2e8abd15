"""Shape and numerics of a decoder-only transformer, as plain data (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from attrs import field, fields, frozen, validators

from llmx.errors import CheckpointError


@frozen
class PlainRope:
    """Unscaled rotary embedding (Su et al., https://arxiv.org/abs/2104.09864)."""


@frozen
class FrequencyRope:
    """Slow frequencies scaled, fast ones kept, a blend in between (``rope_type: llama3``).

    ``original_max_position`` is in tokens; the other fields are dimensionless.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@frozen
class LinearRope:
    """Position interpolation: all frequencies divided by ``factor`` (``rope_type: linear``)."""

    factor: float


@frozen
class LongRope:
    """Per-frequency factors, chosen by context length (https://arxiv.org/abs/2402.13753).

    Contexts up to ``original_max_position`` tokens use ``short_factor``, longer ones
    ``long_factor``; each has one entry per rotary frequency. ``attention_factor`` multiplies
    cos and sin; ``None`` derives it from the ratio of the two context lengths.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position: int
    attention_factor: float | None = None


RopeScaling = PlainRope | FrequencyRope | LinearRope | LongRope


@frozen(kw_only=True)
class DecoderParams:
    """Everything that fixes the decoder's tensor shapes and arithmetic.

    Sizes are counts of elements, ``max_position`` is in tokens. ``head_dim`` need not be
    ``dim / n_heads``. ``rotary_dim`` (even, at most ``head_dim``) leading elements of each head
    are rotated; the rest pass through. ``sliding_window`` is how many tokens the layers that have
    a window attend to, the own one included; ``windowed_layers`` says which do, as a pattern that
    repeats.
    """

    dim: int = field(validator=validators.gt(0))
    n_layers: int = field(validator=validators.gt(0))
    n_heads: int = field(validator=validators.gt(0))
    n_kv_heads: int = field(validator=validators.gt(0))
    head_dim: int = field(validator=validators.gt(0))
    hidden_dim: int = field(validator=validators.gt(0))
    vocab_size: int = field(validator=validators.gt(0))
    max_position: int = field(validator=validators.gt(0))
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = PlainRope()
    rotary_dim: int = field(default=0)
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = field(
        default=None, validator=validators.optional(validators.gt(0))
    )
    windowed_layers: tuple[bool, ...] = (True,)

    def __attrs_post_init__(self) -> None:
        if self.rotary_dim == 0:
            object.__setattr__(self, "rotary_dim", self.head_dim)
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}"
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise CheckpointError(
                f"rotary_dim={self.rotary_dim} must be even and at most head_dim={self.head_dim}"
            )
        if isinstance(self.rope_scaling, LongRope):
            self._check_factors(self.rope_scaling)

    def _check_factors(self, scaling: LongRope) -> None:
        for name in ("short_factor", "long_factor"):
            count = len(getattr(scaling, name))
            if count != self.rotary_dim // 2:
                raise CheckpointError(
                    f"rope scaling has {count} entries in {name}, "
                    f"the model has {self.rotary_dim // 2} rotary frequencies"
                )

    @classmethod
    def extending(cls, usual: DecoderParams, **more: Any) -> Self:
        """For a class with further fields: those of ``usual``, and ``more``."""
        own = {each.name: getattr(usual, each.name) for each in fields(DecoderParams)}
        return cls(**own, **more)

    def layer_window(self, layer: int) -> int | None:
        """Tokens that a layer attends to; ``None`` if all."""
        windowed = self.windowed_layers[layer % len(self.windowed_layers)]
        return self.sliding_window if windowed else None

    @property
    def parameter_count(self) -> int:
        """Number of weights, a tied table counted once."""
        attention_width = self.n_heads * self.head_dim
        kv_width = self.n_kv_heads * self.head_dim
        layer = self.dim * (2 * attention_width + 2 * kv_width) + 3 * self.dim * self.hidden_dim
        layer += 2 * self.dim
        layer += (attention_width + 2 * kv_width) * self.qkv_bias + self.dim * self.output_bias
        layer += (2 * self.hidden_dim + self.dim) * self.mlp_bias
        layer += 2 * self.head_dim * self.qk_norm
        tables = self.vocab_size * self.dim * (1 if self.tied_embeddings else 2)
        return tables + self.n_layers * layer + self.dim

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that one token adds to the KV cache, over all layers."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * element_bytes


@frozen
class Sinks:
    """Attend to the first ``sinks`` tokens and the last ``window`` ones, in texts of any length."""

    sinks: int
    window: int

    @property
    def tokens(self) -> int:
        """All that a token attends to."""
        return self.sinks + self.window


@frozen(kw_only=True)
class ModelSize:
    """One published size of a family.

    ``config_url`` is where ``params`` was read from; ``hub_repo`` holds the weights that
    ``llmx export FAMILY --size NAME`` downloads.
    """

    params: DecoderParams
    hub_repo: str
    config_url: str


def find_size(sizes: Mapping[str, ModelSize], size: str | None) -> ModelSize:
    """The entry of ``sizes`` by its (already normalised) name; ``None`` is the first one."""
    return sizes[size] if size is not None else next(iter(sizes.values()))
