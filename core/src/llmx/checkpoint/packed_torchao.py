"""Weights that torchao quantized and saved as safetensors.

A tensor ``a.weight`` of an own type is stored as ``a._weight_qdata``, ``a._weight_scale``, …; the
file's metadata names the type and its attributes as JSON.
Source: ``torchao.prototype.safetensors``, version 0.18.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.integers import IntegerWeight
from llmx.checkpoint.packed import PackedWeight, Reader
from llmx.errors import CheckpointError

INTEGERS = "IntxUnpackedToInt8Tensor"
PLAIN = "Tensor"
INTEGER_TYPE = re.compile(r"int([1-8])")


def torchao_packed(
    checkpoint: Checkpoint, metadata: Iterable[Mapping[str, str]]
) -> Mapping[str, PackedWeight]:
    """The weights that the files' ``metadata`` describe; empty if torchao wrote none of them.

    Raises:
        CheckpointError: a type of torchao whose content is not integers in groups.
    """
    weights = {}
    for each in metadata:
        for name in _parsed(checkpoint, each.get("tensor_names", "[]")):
            described = _parsed(checkpoint, each.get(name, "{}"))
            kind = described.get("_type")
            if kind == PLAIN:
                continue
            if kind != INTEGERS:
                raise CheckpointError(
                    f"{checkpoint.source}: {name} is a {kind} of torchao, which cannot be read",
                    remedy=f"Save it with {INTEGERS} (for example "
                    "Int8DynamicActivationIntxWeightConfig), or use the model before quantization.",
                )
            weights[name] = _weight(checkpoint, name, described["_data"])
    return weights


def _weight(checkpoint: Checkpoint, name: str, data: Mapping[str, Any]) -> PackedWeight:
    owner, _, attribute = name.rpartition(".")
    parts = {part: f"{owner}._{attribute}_{part}" for part in ("qdata", "scale", "zero_point")}
    absent = [part for part in parts.values() if part not in checkpoint.tensors]
    kind = INTEGER_TYPE.fullmatch(str(data["target_dtype"]["_data"]))
    block = data["block_size"]
    if absent or kind is None or len(block) != 2 or block[0] != 1:
        raise CheckpointError(
            f"{checkpoint.source}: {name} cannot be read: "
            + (f"it lacks {', '.join(absent)}" if absent else f"it has blocks of {block}"),
            remedy="Fetch the checkpoint again, or quantize in groups of a row.",
        )
    bits = int(kind[1])
    info = TensorInfo(checkpoint.tensors[parts["qdata"]].shape, f"torchao int{bits}")
    return PackedWeight(info, parts, partial(_assemble, bits, info.dtype))


def _assemble(bits: int, stored: str, read: Reader) -> IntegerWeight:
    scales, zeros = read("scale").float(), read("zero_point").float()
    return IntegerWeight(
        codes=read("qdata"),
        scales=scales,
        offsets=-zeros * scales if bool(zeros.any()) else None,
        bits=bits,
        stored=stored,
    )


def _parsed(checkpoint: Checkpoint, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.source}: the metadata of its safetensors file is damaged: {error}",
            remedy="Fetch the file again.",
        ) from error
