"""Models of ``transformers`` without memory for their weights."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from llmx import CheckpointError
from llmx.model.ops import BuildOptions
from llmx_plugin_transformers.experts import LinearExperts, is_experts
from llmx_plugin_transformers.parameters import FULL, REMEDY, SLIDING, read_config
from llmx_plugin_transformers.probe import PROBE, Anatomy, probe

SIMPLE = (int, float, bool, str, type(None))
# Forwards of their own that compute what nn.Linear and nn.Embedding do, or scale rows.
PLAIN = {"FalconLinear"}
SCALED = "scalar_embed_scale"


def build_to_probe(config: Any) -> tuple[Any, Anatomy]:
    """A model and where its parts are; raises :class:`CheckpointError` as ``probe`` does."""
    model = _on_meta(config, PROBE, torch.float32)
    return model, probe(model)


def build_on_meta(config_json: str, attention: str, build: BuildOptions) -> tuple[Any, Anatomy]:
    """A model with parameters on the meta device and the values of its buffers.

    Args:
        attention: name in ``AttentionInterface``.
        build: its dtype and context length decide about the buffers.
    """
    config = read_config(config_json)
    _, anatomy = build_to_probe(copy.deepcopy(config))
    model = _on_meta(config, attention, build.dtype)
    with torch.device("cpu"):
        _fill_buffers(model)
        _settle_ropes(model, build.position_span)
    return model, anatomy


def build_without_attention(config_json: str) -> tuple[Any, Any, Anatomy]:
    """A model as llmx loads it, the same as ``transformers`` makes it, and where its parts are."""
    config = read_config(config_json)
    model, anatomy = build_to_probe(config)
    with torch.device("meta"):
        original = AutoModelForCausalLM.from_config(config)
    return model, original, anatomy


def windows_of_layers(config: Any, anatomy: Anatomy) -> list[int | None]:
    """Tokens that each layer attends to; ``None`` if all.

    Raises:
        CheckpointError: a layer is neither full nor a sliding window.
    """
    kinds = getattr(config, "layer_types", None) or [None] * len(anatomy.attention)
    windows: list[int | None] = []
    for kind, attention in zip(kinds, anatomy.attention, strict=False):
        if kind not in (None, FULL, SLIDING):
            raise CheckpointError(f"it has layers of {kind}", remedy=REMEDY)
        if kind == FULL:
            windows.append(None)
        elif kind == SLIDING:
            windows.append(attention.window or config.sliding_window)
        else:
            windows.append(attention.window)
    longest = getattr(config, "max_position_embeddings", None)
    return [None if each and longest and each >= longest else each for each in windows]


def kind_of_layer(config: Any, block: nn.Module, index: int) -> Hashable:
    """Equal for layers that compute the same, given the same shapes.

    They may differ in settings of their modules, and in what the model does around them, which
    goes by lists of the configuration that have an entry for each layer.
    """
    count = config.num_hidden_layers
    settings = [
        (name, key, value)
        for name, module in block.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, SIMPLE) and not key.startswith("_") and key not in ("layer_idx",)
    ]
    entries = [
        (key, repr(value[index]))
        for key, value in sorted(config.to_dict().items())
        if isinstance(value, list | tuple) and len(value) == count
    ]
    inverse = getattr(config, "scale_attn_by_inverse_layer_idx", False)
    return tuple(settings), tuple(entries), index if inverse else None


def _on_meta(config: Any, attention: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attention, dtype=dtype
            )
        except KeyError:  # it looks attention up in a table of its own
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="eager", dtype=dtype
            )
        for name, module in list(model.named_modules()):
            replacement = _as_linears(module)
            if replacement is not None:
                model.set_submodule(name, replacement)
    for module in model.modules():
        # What is stored with the weights is loaded like them.
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name not in module._non_persistent_buffers_set and buffer.is_floating_point():
                del module._buffers[name]
                module.register_parameter(name, nn.Parameter(buffer, requires_grad=False))
    _refuse_unusual(model)
    return model.eval()


def _as_linears(module: Any) -> nn.Module | None:
    """What can be quantized in place of the same in another form."""
    if isinstance(module, Conv1D):
        return nn.Linear(module.weight.shape[0], module.nf)
    if is_experts(module):
        return LinearExperts(module)
    return None


def _refuse_unusual(model: nn.Module) -> None:
    for name, module in model.named_modules():
        kind = type(module)
        usual = kind in (nn.Linear, nn.Embedding) or kind.__name__ in PLAIN
        scaled = hasattr(module, SCALED)
        if isinstance(module, nn.Linear | nn.Embedding) and not usual and not scaled:
            raise CheckpointError(f"{name} is a {kind.__name__}, not a plain layer", remedy=REMEDY)


def _fill_buffers(model: Any) -> None:
    """Values that a constructor computed on the meta device, by the model's own initialisation."""
    for name, module in model.named_modules():
        on_meta = [key for key, each in module.named_buffers(recurse=False) if each.is_meta]
        for key in on_meta:
            module._buffers[key] = _unset(module._buffers[key])
        if on_meta:
            model._init_weights(module)
        for key in on_meta:
            if not _is_set(module._buffers[key]):
                raise CheckpointError(
                    f"{name}.{key} is computed when the model is made, in a way that llmx cannot "
                    "repeat",
                    remedy=REMEDY,
                )


def _unset(buffer: torch.Tensor) -> torch.Tensor:
    if buffer.is_floating_point():
        return torch.full(buffer.shape, float("nan"), dtype=buffer.dtype)
    return torch.full(buffer.shape, 1, dtype=buffer.dtype)


def _is_set(buffer: torch.Tensor) -> bool:
    return not buffer.is_floating_point() or not bool(buffer.isnan().any())


def _settle_ropes(model: nn.Module, context: int) -> None:
    """Rotary factors that depend on a text's length, for the longest one."""
    for module in _ropes(model):
        kind = module.rope_type
        if kind == "dynamic" and context > module.original_max_seq_len:
            raise CheckpointError(
                "its rotary embedding (dynamic) is another one for every length of text",
                remedy=f"use a context of up to {module.original_max_seq_len} tokens",
            )
        if kind == "longrope":
            factors, module.attention_scaling = ROPE_INIT_FUNCTIONS[kind](
                module.config, seq_len=context
            )
            module._buffers["inv_freq"] = factors
        if kind in ("longrope", "dynamic"):
            # What is looked at when it is called: nothing is left to adapt.
            module.rope_type = "default"


def _ropes(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(getattr(module, "rope_type", None), str):
            yield module
