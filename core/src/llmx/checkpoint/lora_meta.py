"""Adapters within a checkpoint of Meta's, as its QAT models have them beside their integers.

``X.adaptor.A.weight`` is [rank, in], ``X.adaptor.B.weight`` [out, rank]; ``lora_args`` in
``params.json`` says rank and scale.
Source: https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/MODEL_CARD.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.lora import LoraCheckpoint
from llmx.checkpoint.meta_params import ADAPTER
from llmx.errors import CheckpointError

DOWN, UP = ".adaptor.A.weight", ".adaptor.B.weight"


def split_adapter(checkpoint: Checkpoint) -> tuple[Checkpoint, LoraCheckpoint | None]:
    """The checkpoint without the adapter that it holds, and that adapter.

    Raises:
        CheckpointError: the adapter is incomplete, or ``params.json`` does not describe it.
    """
    layers = sorted(
        {
            name.removesuffix(end)
            for name in checkpoint.tensors
            for end in (DOWN, UP)
            if name.endswith(end)
        }
    )
    if checkpoint.layout != "meta" or not layers:
        return checkpoint, None
    scale, rank = _described(checkpoint)
    tensors, factors = {}, {}
    for layer in layers:
        names = f"{layer}{DOWN}", f"{layer}{UP}"
        down, up = (checkpoint.tensors.get(name) for name in names)
        if down is None or up is None or not rank == down.shape[0] == up.shape[1]:
            raise CheckpointError(
                f"{checkpoint.source}: {layer} has no two factors of rank {rank}, which "
                f"params.json says",
                remedy="Use the params.json that came with these weights.",
            )
        tensors[f"{layer}.weight"] = TensorInfo((up.shape[0], down.shape[1]), "f32")
        factors[f"{layer}.weight"] = names
    apart = {each for names in factors.values() for each in names}
    plain = {name: info for name, info in checkpoint.tensors.items() if name not in apart}
    adapter = LoraCheckpoint(
        source=checkpoint.source,
        layout=checkpoint.layout,
        files=checkpoint.files,
        interleaved_qk=checkpoint.interleaved_qk,
        tensors=tensors,
        inner=checkpoint,
        factors=factors,
        scales=dict.fromkeys(tensors, scale),
    )
    return attrs.evolve(checkpoint, tensors=plain), adapter


def _described(checkpoint: Checkpoint) -> tuple[float, int]:
    described: Any = checkpoint.config.get(ADAPTER)
    try:
        if isinstance(described, Mapping):
            return float(described["scale"]), int(described["rank"])
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(
        f"{checkpoint.source} has LoRA adapters, but its params.json says no rank and scale "
        f"({ADAPTER})",
        remedy="Use the params.json that came with these weights.",
    )
