"""One product instead of three for queries, keys and values, and one rotation for the first two.

The parts are put together once they have their weights, however those were rounded: until then
every projection has a name and an account of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.attention import Attention, in_groups, together
from llmx.model.norm import RMSNorm
from llmx.model.rope import apply_rope
from llmx.model.shallow import shallow_copy


class FusedAttention(nn.Module):
    """``Attention`` with ``qkv_proj`` in place of three projections; gives the same values.

    Its rows are those of queries, keys and values, group of heads after group. ``qk_norm`` has a
    row of weights for each head of queries and keys in a group.
    """

    def __init__(self, attention: Attention, qkv_proj: nn.Linear, qk_norm: nn.Module) -> None:
        super().__init__()
        queries, keys, values = _heads_of_a_group(attention)
        self.head_dim, self.groups = attention.head_dim, attention.groups
        self.rotated = [queries, keys]
        self.split = [queries + keys, values]
        self.qkv_proj, self.qk_norm = qkv_proj, qk_norm
        self.o_proj, self.core = attention.o_proj, attention.core
        self.rotate_half = attention.rotate_half

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, place: Any) -> Tensor:
        """x [1, S, dim], cos and sin [1, S, 1, head_dim], and the core's place."""
        heads = self.qkv_proj(x).view(1, -1, self.groups * sum(self.split), self.head_dim)
        heads = in_groups(heads, self.groups)
        qk, v = heads[:, :, : self.split[0]], heads[:, :, self.split[0] :]
        rotated = apply_rope(self.qk_norm(qk), cos, sin, self.rotate_half)
        q, k = rotated[:, :, : self.rotated[0]], rotated[:, :, self.rotated[0] :]
        out: Tensor = self.o_proj(together(self.core(q, k, v, place)))
        return out


def fuse_projections(model: nn.Module) -> nn.Module:
    """The model with every attention fused that can be.

    The given model stays as it is. It shares the memory of all weights with the result, but for the
    projections of several groups of heads, whose rows are in another order there.
    """
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return model
    fused = shallow_copy(model)
    fused.layers = nn.ModuleList(_fused_layer(layer) for layer in layers)
    return fused


def _fused_layer(layer: nn.Module) -> nn.Module:
    attention = getattr(layer, "attention", None)
    if type(attention) is not Attention:
        return layer
    qk_norm = _stacked_norms(attention)
    if qk_norm is None:
        return layer
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    qkv_proj = _stacked_linears(projections, attention.groups)
    if qkv_proj is None:
        return layer
    fused = shallow_copy(layer)
    fused.attention = FusedAttention(attention, qkv_proj, qk_norm)
    return fused


def _heads_of_a_group(attention: Attention) -> list[int]:
    """How many there are of queries, keys and values."""
    size = attention.head_dim * attention.groups
    return [
        each.out_features // size for each in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]


def _stacked_linears(linears: Sequence[nn.Module], groups: int) -> nn.Linear | None:
    """One layer with the rows of all, group after group; ``None`` if they are not of one kind."""
    weights: list[Tensor] = []
    biases: list[Tensor | None] = []
    for linear in linears:
        if type(linear) is not nn.Linear:
            return None
        weights.append(linear.weight)
        biases.append(linear.bias)
    weight = _stacked(weights, groups)
    given = [bias for bias in biases if bias is not None]
    if weight is None or len(given) not in (0, len(biases)):
        return None
    rows = [each.shape[0] for each in weights]
    with torch.device("meta"):
        fused = nn.Linear(weight.shape[1], sum(rows), bias=False)
    fused.weight = nn.Parameter(weight, requires_grad=False)
    if groups == 1:
        # The originals become views, so that the weights are not held twice.
        for linear, part in zip(linears, _rows(weight, rows), strict=True):
            linear.weight = nn.Parameter(part, requires_grad=False)
    if given:
        fused.bias = nn.Parameter(_joined(given, groups), requires_grad=False)
    return fused


def _stacked(weights: Sequence[Any], groups: int) -> Tensor | None:
    first = weights[0]
    if any(type(each) is not type(first) or each.dtype != first.dtype for each in weights):
        return None
    if not hasattr(first, "__tensor_flatten__"):
        return _joined(weights, groups)
    # Rounded weights: plain tensors with a row for each output channel, and what they have in
    # common.
    flat = [each.__tensor_flatten__() for each in weights]
    if any(each != flat[0] for each in flat):
        return None
    parts = {
        name: _joined([getattr(each, name) for each in weights], groups) for name in flat[0][0]
    }
    return _rebuilt(first, parts)


def _joined(parts: Sequence[Tensor], groups: int) -> Tensor:
    """Tensors [groups * N, ...] as one: for each group the rows of all of them."""
    cut = [each.detach().reshape(groups, -1, *each.shape[1:]) for each in parts]
    return torch.cat(cut, dim=1).flatten(0, 1)


def _rows(weight: Any, counts: Sequence[int]) -> list[Tensor]:
    """The weight cut into blocks of rows, as views."""
    if not hasattr(weight, "__tensor_flatten__"):
        return list(torch.split(weight, list(counts)))
    names, _ = weight.__tensor_flatten__()
    parts = {name: torch.split(getattr(weight, name), list(counts)) for name in names}
    return [
        _rebuilt(weight, {name: parts[name][at] for name in names}) for at in range(len(counts))
    ]


def _rebuilt(like: Any, parts: dict[str, Tensor]) -> Tensor:
    _, common = like.__tensor_flatten__()
    rebuilt: Tensor = type(like).__tensor_unflatten__(parts, common, None, None)
    return rebuilt


def _stacked_norms(attention: Attention) -> nn.Module | None:
    """The norms of queries and keys as one; ``None`` if it is not known how."""
    norms: tuple[Any, Any] = attention.q_norm, attention.k_norm
    if all(isinstance(each, nn.Identity) for each in norms):
        return nn.Identity()
    if not all(isinstance(each, RMSNorm) for each in norms) or type(norms[0]) is not type(norms[1]):
        return None
    queries, keys, _ = _heads_of_a_group(attention)
    rows = [
        norm.weight.detach().expand(heads, -1)
        for norm, heads in zip(norms, (queries, keys), strict=True)
    ]
    stacked = shallow_copy(attention.q_norm)
    stacked.weight = nn.Parameter(torch.cat(rows), requires_grad=False)
    return stacked
