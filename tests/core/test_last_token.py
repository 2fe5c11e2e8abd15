"""A last layer of the last token's queries gives the same logits, from fewer products."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from tests.core.test_fused_projections import SHAPE
from torch import nn

from llmx.model.decoder import Decoder
from llmx.model.fused import fuse_projections
from llmx.model.last_token import LastTokenLayer, last_token_only
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams, Sinks

CALLS = ((0, 7), (7, 8), (8, 20), (20, 40))
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "norms of queries and keys": ({"qk_norm": True}, {}, {}),
    "biases": ({"qkv_bias": True, "output_bias": True}, {}, {}),
    "partial rotary": ({"rotary_dim": 8}, {}, {}),
    "windows": ({}, {"windows": (8,), "longest_call": 20}, {}),
    "int8 cache": ({}, {}, {"int8_cache": True}),
    "int8 cache, windows": ({}, {"windows": (8,)}, {"int8_cache": True}),
}


def decoder(
    kind: dict[str, Any],
    build: dict[str, Any] | None = None,
    ops: dict[str, Any] | None = None,
    *,
    heads_apart: bool = False,
) -> Decoder:
    torch.manual_seed(0)
    chosen = attrs.evolve(
        plain_ops(
            **{"kv_cache": True, "fused_attention": True, "int8_cache": False, **(ops or {})}
        ),
        kv_heads_apart=heads_apart,
    )
    options = BuildOptions(dtype=torch.float32, max_context_length=64, **(build or {}))
    model = Decoder(DecoderParams(**SHAPE, **kind), chosen, options).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).copy_(torch.randn(parameter.shape) * 0.2)
    return model


def logits(model: nn.Module) -> list[torch.Tensor]:
    """After each call of a text, the caches emptied before it."""
    for name, buffer in model.named_buffers():
        if "core" in name:
            buffer.zero_()
    tokens = torch.arange(40).unsqueeze(0)
    return [model(tokens[:, start:end], torch.tensor([start])) for start, end in CALLS]


@pytest.mark.parametrize("apart", [False, True], ids=["heads together", "heads apart"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gives_the_same_logits(kind: tuple[Any, Any, Any], apart: bool) -> None:
    model = decoder(*kind, heads_apart=apart)
    expected = logits(model)
    shortened = last_token_only(model)
    assert isinstance(shortened.get_submodule("layers.1"), LastTokenLayer)
    torch.testing.assert_close(logits(shortened), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(fuse_projections(shortened)), expected, rtol=1e-5, atol=1e-5)
    assert all(map(torch.equal, logits(model), expected))


def test_the_last_layer_computes_one_token() -> None:
    model = decoder({})
    seen: dict[str, int] = {}
    shortened = last_token_only(model)
    for name, module in shortened.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(
                lambda _, inputs, __, name=name: seen.update({name: inputs[0].shape[1]})
            )
    shortened(torch.arange(9).unsqueeze(0), torch.tensor([0]))
    last = {name: count for name, count in seen.items() if name.startswith("layers.1.")}
    assert {name for name, count in last.items() if count == 9} == {
        "layers.1.attention.k_proj",
        "layers.1.attention.v_proj",
    }
    assert sorted(last.values()) == [1, 1, 1, 1, 1, 9, 9]
    assert {count for name, count in seen.items() if name.startswith("layers.0.")} == {9}


def test_weights_are_shared_and_keep_their_names() -> None:
    model = decoder({"qk_norm": True})
    shared = dict(last_token_only(model).named_parameters())
    assert shared.keys() == dict(model.named_parameters()).keys()
    assert all(shared[name] is each for name, each in model.named_parameters())


@pytest.mark.parametrize(
    ("build", "ops"),
    [
        ({"full_logits": True}, {}),
        ({}, {"fused_attention": False}),
        ({}, {"kv_cache": False}),
        ({"sinks": Sinks(2, 8), "longest_call": 4}, {}),
    ],
    ids=["all logits", "plain attention", "no cache", "sinks"],
)
def test_others_stay_as_they_are(build: dict[str, Any], ops: dict[str, Any]) -> None:
    model = decoder({}, build, ops)
    assert last_token_only(model) is model


def test_a_family_that_goes_its_own_way_stays_as_it_is() -> None:
    class Other(Decoder):
        def forward(self, *inputs: Any) -> torch.Tensor:
            return super().forward(*inputs)

    model = decoder({})
    model.__class__ = Other
    assert last_token_only(model) is model
