"""Checkpoints whose weights are spread over several tensors each: codes, scales, zero points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo, TokenizerSections
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from llmx.checkpoint.integers import IntegerWeight

Reader = Callable[[str], "torch.Tensor"]
"""Gives a stored tensor in its stored type."""


@frozen
class PackedWeight:
    """One weight: its description, the stored tensors that make it, and how they do.

    ``parts`` are names by role; ``assemble`` gets a reader of stored tensors by role.
    """

    info: TensorInfo
    parts: Mapping[str, str]
    assemble: Callable[[Reader], IntegerWeight]


@frozen(kw_only=True, slots=False)
class PackedCheckpoint(Checkpoint):
    """A checkpoint under the names that it had before it was quantized.

    ``inner`` is as stored; ``weights`` are those to be assembled, by name.
    """

    inner: Checkpoint
    weights: Mapping[str, PackedWeight]

    def read(self, name: str) -> torch.Tensor:
        if name in self.weights:
            return self._assemble(name).dequantize()
        return self.inner.read(name)

    def read_stored(self, name: str) -> torch.Tensor | IntegerWeight:
        return self._assemble(name) if name in self.weights else self.inner.read_stored(name)

    def special_tokens(self) -> Mapping[str, int]:
        return self.inner.special_tokens()

    def write_tokenizer(self, folder: Path, sections: TokenizerSections) -> Path | None:
        return self.inner.write_tokenizer(folder, sections)

    def _assemble(self, name: str) -> IntegerWeight:
        weight = self.weights[name]
        made = weight.assemble(lambda role: self.inner.read_raw(weight.parts[role]))
        if tuple(made.shape) != weight.info.shape:
            raise CheckpointError(
                f"{self.source}: the parts of {name} make {list(made.shape)}, "
                f"not {list(weight.info.shape)}"
            )
        return made


def packed_checkpoint(inner: Checkpoint, weights: Mapping[str, PackedWeight]) -> PackedCheckpoint:
    """``inner`` with ``weights`` in the place of their parts."""
    parts = {part for weight in weights.values() for part in weight.parts.values()}
    tensors = {name: info for name, info in inner.tensors.items() if name not in parts}
    tensors |= {name: weight.info for name, weight in weights.items()}
    shared = {
        field.name: getattr(inner, field.name)
        for field in attrs.fields(Checkpoint)
        if field.name != "tensors"
    }
    return PackedCheckpoint(inner=inner, weights=weights, tensors=tensors, **shared)
