"""Checkpoints and models of full size, by names and shapes alone."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import Tensor

from llmx.checkpoint import Checkpoint, TensorInfo
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.model.params import DecoderParams
from llmx.model.shapes import parameter_shapes


@frozen(kw_only=True, slots=False)
class ShapesOnly(Checkpoint):
    """A checkpoint without content."""

    def read(self, name: str) -> Tensor:
        raise CheckpointError(f"{self.source} holds no bytes of {name}")


def full_size_checkpoint(model: Any) -> ShapesOnly:
    """What ``model``, one of ``transformers`` on the meta device, would be saved as.

    A tied head is omitted, as authors do.
    """
    # As save_pretrained does: experts, say, are one tensor in memory and many in a file.
    from transformers.core_model_loading import revert_weight_conversion

    saved = revert_weight_conversion(model, dict(model.named_parameters()))
    tensors = {name: TensorInfo(tuple(each.shape), "bf16") for name, each in saved.items()}
    return ShapesOnly(
        source="a checkpoint of full size",
        layout="hf",
        files=(),
        tensors=tensors,
        config=model.config.to_dict(),
    )


def meta_decoder_shapes(family: FamilySpec, params: DecoderParams) -> dict[str, tuple[int, ...]]:
    """Shapes of the decoder's parameters by name, a tied head left out."""
    return parameter_shapes(family.build_model, params)
