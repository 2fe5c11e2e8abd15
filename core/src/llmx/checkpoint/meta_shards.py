"""Joining the model-parallel pieces in which Meta publishes its larger models.

Each ``consolidated.NN.pth`` holds a piece of every matrix. Which dimension was cut follows from
the layer's kind: layers that produce more features than one device holds are cut along their
outputs, those that consume them along their inputs; norms are repeated.
Source: Megatron-style column and row parallel layers (https://arxiv.org/abs/1909.08053).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch

CUT_ALONG_OUTPUTS = ("wq", "wk", "wv", "w1", "w3", "output")
CUT_ALONG_INPUTS = ("wo", "w2")
EMBEDDING = "tok_embeddings"
FINAL_NORM = "norm.weight"


@frozen
class Pieces:
    """The pieces of one tensor, and the dimension along which they join.

    ``dim`` is ``None`` for a tensor that is stored once, or repeated in every file.
    """

    parts: tuple[torch.Tensor, ...]
    dim: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.parts[0].shape)
        if self.dim is not None:
            shape[self.dim] = sum(part.shape[self.dim] for part in self.parts)
        return tuple(shape)

    def join(self) -> torch.Tensor:
        import torch

        return self.parts[0] if self.dim is None else torch.cat(self.parts, dim=self.dim)


def collect_pieces(
    source: str, contents: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, Pieces]:
    """Group the tensors of all files by name and find out how their pieces join."""
    parts: dict[str, tuple[torch.Tensor, ...]] = {}
    for content in contents:
        for name, tensor in content.items():
            parts[name] = (*parts.get(name, ()), tensor)
    return {
        name: Pieces(pieces, _cut_dimension(source, name, pieces, contents))
        for name, pieces in parts.items()
    }


def _cut_dimension(
    source: str,
    name: str,
    pieces: Sequence[torch.Tensor],
    contents: Sequence[Mapping[str, torch.Tensor]],
) -> int | None:
    if len(pieces) == 1:
        return None
    if len(pieces) != len(contents) or len({piece.shape for piece in pieces}) > 1:
        raise CheckpointError(
            f"{source}: tensor {name} is in {len(pieces)} of {len(contents)} files, "
            f"with shapes {', '.join(str(tuple(piece.shape)) for piece in pieces)}",
            remedy="Fetch the checkpoint again: its files do not belong together.",
        )
    layer, kind = (name.split(".")[-2:]) if "." in name else (name, "")
    if layer == EMBEDDING and FINAL_NORM in contents[0]:
        # Cut along the features by the second generation of models, along the vocabulary since.
        width = contents[0][FINAL_NORM].shape[0]
        return 0 if pieces[0].shape[1] == width else 1
    if layer in CUT_ALONG_OUTPUTS:
        return 0
    if layer in CUT_ALONG_INPUTS and kind == "weight":
        return 1
    return None
