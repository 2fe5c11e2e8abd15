"""Likely causes where a family's model does not compute what its reference computes.

Mistakes that are often made are undone one by one in the model; the one without which it agrees
is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llmx.errors import CheckpointError
from llmx.model.hf_config import decoder_params
from llmx.model.params import DecoderParams

Undo = Callable[[dict[str, nn.Parameter]], None]
"""Changes a layer's parameters, by their names in it, back to what they should have been."""

PAIRS = {
    ("feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"): "gate and up are swapped",
    ("attention.q_norm.weight", "attention.k_norm.weight"): "the norms of q and k are swapped",
    ("attention.q_proj.weight", "attention.k_proj.weight"): "q and k are swapped",
    ("attention.k_proj.weight", "attention.v_proj.weight"): "k and v are swapped",
    ("attention_norm.weight", "feed_forward_norm.weight"): "the two norms of a layer are swapped",
}


def cause_of_difference(
    model: nn.Module, params: DecoderParams, config: Mapping[str, Any], agrees: Callable[[], bool]
) -> str:
    """One sentence for the person who has to find the mistake.

    Args:
        model: the family's, with its weights.
        params: what ``params_from_hf`` gave.
        config: the checkpoint's ``config.json``.
        agrees: whether ``model`` computes what the reference does, as it is now.
    """
    if other := _other_params(params, config):
        return other
    for cause, undo in _mistakes(model, params):
        with _undone(model, undo) as changed:
            if changed and agrees():
                return f"{cause}: look at convert_weights"
    return (
        "none of the usual mistakes: look at what the model does besides its weights (activation, "
        "norms, scales), which build_model can supply"
    )


def hint_for_tensors(error: CheckpointError) -> str:
    """What to do about tensors that did not fit the model."""
    if ".bias" in error.message:
        return (
            "the model has biases that its parameters do not state: let params_from_hf give "
            "qkv_bias, output_bias or mlp_bias"
        )
    return "the names in convert_weights and the parameters of params_from_hf have to fit together"


def hint_for_unused(names: Iterable[str]) -> str:
    """What it means that stored tensors of these names were not read."""
    listed = ", ".join(sorted(names)[:3])
    missing = "a bias that the model has is forgotten" if ".bias" in listed else "they are dropped"
    return f"{listed} are stored and not used: {missing}, look at convert_weights"


def _other_params(params: DecoderParams, config: Mapping[str, Any]) -> str | None:
    try:
        stated = decoder_params(config)
    except CheckpointError:
        return None
    for name in ("rope_scaling", "rope_theta", "rotary_dim", "norm_eps", "sliding_window"):
        ours, theirs = getattr(params, name), getattr(stated, name)
        if ours != theirs:
            return (
                f"params_from_hf gives {name}={ours!r}, config.json states {theirs!r}: "
                f"{name} is missing or wrong"
            )
    return None


def _mistakes(model: nn.Module, params: DecoderParams) -> Iterator[tuple[str, Undo]]:
    for (one, other), cause in PAIRS.items():
        yield cause, _swap(one, other)
    layers: Any = getattr(model, "layers", ())
    square = {
        name: None
        for layer in layers
        for name, each in layer.named_parameters()
        if each.ndim == 2 and each.shape[0] == each.shape[1]
    }
    for name in square:
        yield f"{name.removesuffix('.weight')} is transposed", _transpose(name)
    heads = {"q": params.n_heads, "k": params.n_kv_heads}
    yield (
        "rows of q and k are in interleaved order (neighbours make a rotary pair)",
        _each(heads, _half_split),
    )
    yield (
        "rows of q and k were reordered though they are stored half-split",
        _each(heads, _neighbours),
    )


def _swap(one: str, other: str) -> Undo:
    def undo(parameters: dict[str, nn.Parameter]) -> None:
        if one in parameters and parameters[one].shape == parameters[other].shape:
            first, second = parameters[one], parameters[other]
            first.data, second.data = second.data, first.data

    return undo


def _transpose(name: str) -> Undo:
    def undo(parameters: dict[str, nn.Parameter]) -> None:
        if name in parameters:  # layers may be of several kinds
            parameters[name].data = parameters[name].data.T.contiguous()

    return undo


def _each(heads: Mapping[str, int], reorder: Callable[[Tensor], Tensor]) -> Undo:
    def undo(parameters: dict[str, nn.Parameter]) -> None:
        for letter, count in heads.items():
            for kind in ("weight", "bias"):
                found = parameters.get(f"attention.{letter}_proj.{kind}")
                if found is not None:
                    rows = found.data.view(count, -1, *found.shape[1:])
                    found.data = reorder(rows).reshape(found.shape)

    return undo


def _half_split(rows: Tensor) -> Tensor:
    return torch.cat((rows[:, 0::2], rows[:, 1::2]), dim=1)


def _neighbours(rows: Tensor) -> Tensor:
    half = rows.shape[1] // 2
    return torch.stack((rows[:, :half], rows[:, half:]), dim=2).flatten(1, 2)


@contextmanager
def _undone(model: nn.Module, undo: Undo) -> Iterator[bool]:
    """Every layer without a mistake, for a while; whether that changes anything."""
    layers: Any = getattr(model, "layers", ())
    before = [(each, each.data) for each in model.parameters()]
    for layer in layers:
        undo(dict(layer.named_parameters()))
    try:
        yield any(each.data is not data for each, data in before)
    finally:
        for each, data in before:
            each.data = data
