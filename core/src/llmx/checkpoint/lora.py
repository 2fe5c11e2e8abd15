"""LoRA adapters as PEFT saves them: ``adapter_config.json`` and ``adapter_model.safetensors``.

An adapter changes a weight by ``scale * B @ A`` with A [rank, in] and B [out, rank]; the scale is
``lora_alpha / r``, or ``lora_alpha / sqrt(r)`` with ``use_rslora``.
Sources: https://arxiv.org/abs/2106.09685, https://arxiv.org/abs/2312.03732 and
https://huggingface.co/docs/peft/package_reference/lora
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.companions import Companions
from llmx.checkpoint.files import read_json
from llmx.checkpoint.formats import sniff
from llmx.config.adapter import KEY, Adapter
from llmx.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PART = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])(\.\w+)?\.weight")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA", None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, [], ()),
    "layer_replication": (None, [], ()),
    "trainable_token_indices": (None, [], ()),
    "target_parameters": (None, [], ()),
    "alora_invocation_tokens": (None, [], ()),
    "arrow_config": (None,),
}
"""Fields that change what an adapter does, with the values that leave it a plain LoRA."""


@frozen(kw_only=True, slots=False)
class LoraCheckpoint(Checkpoint):
    """What an adapter adds to each weight, under the weight's own Hugging Face name.

    ``inner`` holds the factors; ``factors`` gives the names of A and B, ``scales`` their scale.
    """

    inner: Checkpoint
    factors: Mapping[str, tuple[str, str]]
    scales: Mapping[str, float]

    def read(self, name: str) -> torch.Tensor:
        down, up = (self.inner.read(part).float() for part in self.factors[name])
        return (up @ down) * self.scales[name]


def open_lora(adapter: Adapter) -> LoraCheckpoint:
    """Read an adapter's description and its header.

    Raises:
        CheckpointError: it is not there, damaged, or more than a plain LoRA.
        ConfigError: the job describes it otherwise than its own file.
    """
    weights = _weights(Path(adapter.adapter_checkpoint).expanduser())
    described = _description(adapter, weights)
    for name, neutral in NEUTRAL.items():
        value = described.get(name)
        if value not in neutral:
            raise CheckpointError(
                f"{adapter.adapter_checkpoint}: the adapter has {name}={value!r}, "
                "which is more than plain LoRA",
                remedy="Merge it with PEFT (merge_and_unload) and export the result.",
            )
    inner = _open(weights)
    factors = _pairs(inner)
    _check_targets(adapter, factors)
    tensors, scales = {}, {}
    for layer, (down, up) in factors.items():
        (rank, width), (rows, rank_of_up) = inner.tensors[down].shape, inner.tensors[up].shape
        stated = _by_pattern(described, "rank_pattern", layer, described["r"])
        if not rank == rank_of_up == stated:
            raise CheckpointError(
                f"{adapter.adapter_checkpoint}: the factors of {layer} have ranks {rank} and "
                f"{rank_of_up}, the adapter's description says {stated}",
                remedy=f"Check {CONFIG}: it must be the file that came with these weights.",
            )
        alpha = _by_pattern(described, "alpha_pattern", layer, described["lora_alpha"])
        divisor = math.sqrt(rank) if described.get("use_rslora") else rank
        tensors[f"{layer}.weight"] = TensorInfo((rows, width), "f32")
        scales[f"{layer}.weight"] = alpha / divisor
    return LoraCheckpoint(
        source=adapter.adapter_checkpoint,
        layout="hf",
        files=(weights,),
        tensors=tensors,
        inner=inner,
        factors={f"{layer}.weight": pair for layer, pair in factors.items()},
        scales=scales,
    )


def _weights(path: Path) -> Path:
    candidates = [path / name for name in WEIGHTS] if path.is_dir() else [path]
    found = next((each for each in candidates if each.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"no adapter at {path}"
            + (f": the folder has no {' or '.join(WEIGHTS)}" if path.is_dir() else ""),
            remedy="Name the folder that PEFT's save_pretrained wrote.",
        )
    return found


def _description(adapter: Adapter, weights: Path) -> Mapping[str, Any]:
    """The fields of ``adapter_config.json``, or what the job says in its place."""
    path = weights.parent / CONFIG
    if adapter.adapter_config is not None:
        path = Path(adapter.adapter_config).expanduser()
    if adapter.adapter_config is None and not path.is_file():
        if not adapter.lora_rank or not adapter.lora_alpha:
            raise CheckpointError(
                f"{adapter.adapter_checkpoint} has no {CONFIG} beside it",
                remedy=f"Give {KEY}.lora_rank and {KEY}.lora_alpha, or the file.",
            )
        return {"r": adapter.lora_rank, "lora_alpha": adapter.lora_alpha}
    described = read_json(path)
    for field, key in (("lora_rank", "r"), ("lora_alpha", "lora_alpha")):
        stated, value = getattr(adapter, field), described.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"{path} has no usable {key} (found {value!r})")
        if stated and stated != value:
            raise ConfigError(
                f"{KEY}.{field} is {stated}, {path} says {value}", remedy="leave it out"
            )
    return described


def _open(weights: Path) -> Checkpoint:
    # What lies beside describes the adapter, not a model.
    nothing = Companions(
        hf_config={},
        meta_params={},
        generation_config={},
        tokenizer_config={},
        tokenizer_file=None,
    )
    if sniff(weights) == "safetensors":
        from llmx.checkpoint.safetensors_reader import open_safetensors as open_files
    else:
        from llmx.checkpoint.torch_reader import open_torch as open_files
    return open_files([weights], nothing, source=str(weights), revision=None)


def _pairs(inner: Checkpoint) -> dict[str, tuple[str, str]]:
    """Names of A and B by the layer that they change."""
    found: dict[str, dict[str, str]] = {}
    for name, info in inner.tensors.items():
        match = PART.fullmatch(name)
        if match is None or len(info.shape) != 2:
            raise CheckpointError(
                f"{inner.source}: tensor {name} belongs to no linear layer's LoRA",
                remedy="Use an adapter that PEFT saved, or merge this one where it was made.",
            )
        found.setdefault(match["layer"], {})[match["part"]] = name
    single = [layer for layer, parts in found.items() if len(parts) == 1]
    if single or not found:
        raise CheckpointError(
            f"{inner.source} has only one of the two factors of {', '.join(single[:3])}"
            if single
            else f"{inner.source} holds no LoRA factors",
            remedy="Fetch the adapter again: it is incomplete.",
        )
    return {layer: (parts["A"], parts["B"]) for layer, parts in found.items()}


def _check_targets(adapter: Adapter, layers: Mapping[str, Any]) -> None:
    wanted = set(adapter.target_modules)
    others = sorted({layer.rpartition(".")[2] for layer in layers} - wanted)
    if wanted and others:
        raise ConfigError(
            f"{adapter.adapter_checkpoint} also changes {', '.join(others)}, which "
            f"{KEY}.target_modules does not name",
            remedy="leave target_modules out to take the adapter as it is",
        )


def _by_pattern(described: Mapping[str, Any], key: str, layer: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the layer's name, as in PEFT."""
    for pattern, value in (described.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
