"""Projections put together for lowering give what they give apart, in the same memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmx.model.decoder import Decoder
from llmx.model.fused import FusedAttention, fuse_projections
from llmx.model.norm import ProductRMSNorm, RMSNorm
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams
from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value

SHAPE: dict[str, Any] = {
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "hidden_dim": 96,
    "vocab_size": 50,
    "max_position": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norms of queries and keys": {"qk_norm": True},
    "biases": {"qkv_bias": True},
    "partial rotary": {"rotary_dim": 8},
}
FOUR_BITS = Scheme(4, 32)


def decoder(**kind: Any) -> Decoder:
    torch.manual_seed(0)
    ops = plain_ops(kv_cache=True, fused_attention=False, int8_cache=False)
    build = BuildOptions(dtype=torch.float32, max_context_length=64)
    model = Decoder(DecoderParams(**SHAPE, **kind), ops, build).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape) * 0.2)
    return model


def quantize(linear: nn.Module, scheme: Scheme) -> None:
    assert isinstance(linear, nn.Linear)
    affine_linear(linear, largest_value(linear.weight.detach(), scheme))


def projections(model: nn.Module, layer: int = 0) -> list[Any]:
    attention: Any = model.get_submodule(f"layers.{layer}.attention")
    return [attention.q_proj, attention.k_proj, attention.v_proj]


def quantize_projections(model: nn.Module) -> None:
    for layer in range(2):
        for linear in projections(model, layer):
            quantize(linear, FOUR_BITS)


def logits(model: nn.Module) -> torch.Tensor:
    out: torch.Tensor = model(torch.arange(9).unsqueeze(0), torch.tensor([0]))
    return out


def all_fused(model: nn.Module) -> nn.Module:
    """The model with both attentions fused."""
    fused = fuse_projections(model)
    attentions = [fused.get_submodule(f"layers.{layer}.attention") for layer in range(2)]
    assert all(isinstance(each, FusedAttention) for each in attentions)
    return fused


@pytest.mark.parametrize("rounded", [False, True], ids=["float", "4 bits"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gives_what_the_projections_give_apart(kind: dict[str, Any], rounded: bool) -> None:
    model = decoder(**kind)
    if rounded:
        quantize_projections(model)
    expected = logits(model)
    fused = all_fused(model)
    torch.testing.assert_close(logits(fused), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(model), expected)


def test_weights_are_not_held_twice() -> None:
    model = decoder()
    quantize(projections(model)[0], FOUR_BITS)
    quantize(projections(model)[1], FOUR_BITS)
    quantize(projections(model)[2], FOUR_BITS)
    fused: Any = fuse_projections(model)
    for layer, part in ((0, lambda linear: linear.weight.qdata), (1, lambda linear: linear.weight)):
        whole = part(fused.layers[layer].attention.qkv_proj).untyped_storage()
        for linear in projections(model, layer):
            assert part(linear).untyped_storage().data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("other", [None, Scheme(8, 32)], ids=["float", "8 bits"])
def test_projections_of_different_kinds_stay_apart(other: Scheme | None) -> None:
    model = decoder()
    q, k, v = projections(model)
    quantize(q, FOUR_BITS)
    quantize(k, FOUR_BITS)
    if other is not None:
        quantize(v, other)
    fused: Any = fuse_projections(model)
    assert fused.layers[0].attention is model.layers[0].attention
    assert isinstance(fused.layers[1].attention, FusedAttention)


def test_a_model_without_layers_is_left_alone() -> None:
    model = nn.Linear(2, 2)
    assert fuse_projections(model) is model


def test_the_mean_as_a_product_is_the_mean() -> None:
    x = torch.randn(1, 5, 576, generator=torch.Generator().manual_seed(0)) * 3
    norms = RMSNorm(576, 1e-5), ProductRMSNorm(576, 1e-5)
    for norm in norms:
        nn.init.normal_(norm.weight)
        norm.weight.requires_grad_(False)
    norms[1].weight.copy_(norms[0].weight)
    torch.testing.assert_close(norms[1](x), norms[0](x), rtol=1e-6, atol=1e-6)
