"""Which of the packed formats a checkpoint is in, if any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmx.checkpoint.base import Checkpoint
from llmx.checkpoint.packed import PackedWeight, packed_checkpoint
from llmx.checkpoint.packed_hf import CODES, PACKINGS, hf_packed
from llmx.checkpoint.packed_meta import meta_packed
from llmx.checkpoint.packed_torchao import torchao_packed
from llmx.errors import CheckpointError

DESCRIPTION = "quantization_config"


def unpacked(checkpoint: Checkpoint, metadata: Iterable[Mapping[str, str]] = ()) -> Checkpoint:
    """``checkpoint`` with its packed weights under their plain names; itself if it has none.

    Args:
        metadata: of each safetensors file.

    Raises:
        CheckpointError: it is quantized in a way that cannot be read.
    """
    weights = _weights(checkpoint, metadata)
    return packed_checkpoint(checkpoint, weights) if weights else checkpoint


def _weights(
    checkpoint: Checkpoint, metadata: Iterable[Mapping[str, str]]
) -> Mapping[str, PackedWeight]:
    if weights := torchao_packed(checkpoint, metadata):
        return weights
    if checkpoint.layout == "meta":
        return meta_packed(checkpoint)
    described: Any = checkpoint.config.get(DESCRIPTION)
    if described is None:
        if any(name.endswith(f".{CODES}") for name in checkpoint.tensors):
            raise CheckpointError(
                f"{checkpoint.source} holds packed weights ({CODES}), but its config.json has no "
                f"{DESCRIPTION}",
                remedy="Copy quantize_config.json into config.json under that name, with the "
                'method as "quant_method": "gptq" or "awq".',
            )
        return {}
    method = described.get("quant_method") if isinstance(described, Mapping) else described
    if method in PACKINGS:
        return hf_packed(checkpoint)
    raise CheckpointError(
        f"{checkpoint.source} is quantized by {method}, which cannot be read",
        remedy=f"Use the model before quantization, or one by {', '.join(PACKINGS)}, GGUF or "
        "torchao (as safetensors).",
    )
