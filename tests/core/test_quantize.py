"""Quantization: every layer accounted for, group sizes honoured or refused, errors bounded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmx import ConfigError
from llmx.config import QuantizationOptions
from llmx.quantize.account import summarize
from llmx.quantize.embedding import quantize_embedding
from llmx.quantize.load import load_weights
from llmx.quantize.plan import Scheme, plan_quantization
from llmx.quantize.random_weights import random_weights


class Small(nn.Module):
    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.inner = nn.Linear(width, 128, bias=True)
        self.norm = nn.LayerNorm(128, bias=False)
        self.head = nn.Linear(128, 50, bias=False)


def meta(width: int = 96) -> Small:
    with torch.device("meta"):
        return Small(width)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in model.named_parameters()}


ALL = QuantizationOptions(qmode="8da4w", embedding_quantize="4,32")


class TestPlan:
    def test_every_linear_and_embedding_has_a_scheme(self) -> None:
        schemes = plan_quantization(meta(), ALL, group_multiple=32)
        assert schemes == {
            "embedding": Scheme(4, 32),
            "inner": Scheme(4, 32),
            "head": Scheme(4, 32),
        }

    def test_nothing_is_quantized_without_modes(self) -> None:
        assert plan_quantization(meta(), QuantizationOptions(), group_multiple=32) == {}

    def test_the_automatic_group_divides_every_width(self) -> None:
        schemes = plan_quantization(meta(80), QuantizationOptions(qmode="8da4w"), group_multiple=8)
        assert schemes["inner"] == Scheme(4, 16)
        assert schemes["head"] == Scheme(4, 32)

    def test_a_width_that_no_group_divides_gets_one_scale_per_row(self) -> None:
        schemes = plan_quantization(meta(80), QuantizationOptions(qmode="8da4w"), group_multiple=32)
        assert schemes["inner"] == Scheme(4, 80)

    def test_a_group_that_divides_is_honoured(self) -> None:
        options = QuantizationOptions(qmode="8da4w", group_size=32)
        assert plan_quantization(meta(), options, group_multiple=32)["head"] == Scheme(4, 32)

    def test_a_group_that_does_not_divide_is_refused_by_layer(self) -> None:
        options = QuantizationOptions(qmode="8da4w", group_size=64)
        with pytest.raises(ConfigError, match="inner, which is 96 wide") as raised:
            plan_quantization(meta(), options, group_multiple=32)
        assert raised.value.remedy == "use 32 or 96"

    def test_a_group_that_the_kernels_do_not_take_is_refused(self) -> None:
        options = QuantizationOptions(qmode="8da4w", group_size=16)
        with pytest.raises(ConfigError, match="group_size=16"):
            plan_quantization(meta(), options, group_multiple=32)

    def test_an_embedding_group_that_does_not_divide_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="embedding_quantize=4,64"):
            plan_quantization(
                meta(), QuantizationOptions(embedding_quantize="4,64"), group_multiple=32
            )

    def test_an_embedding_group_of_zero_is_the_whole_row(self) -> None:
        schemes = plan_quantization(
            meta(), QuantizationOptions(embedding_quantize="8,0"), group_multiple=32
        )
        assert schemes == {"embedding": Scheme(8, 96)}


class TestEmbedding:
    @pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 32), (4, 96), (8, 96)])
    def test_every_value_is_within_half_a_step(self, bits: int, group: int) -> None:
        table = torch.randn(50, 96)
        quantized = quantize_embedding(table, Scheme(bits, group), torch.float32)
        tokens = torch.arange(50)
        difference = (quantized(tokens) - table).abs().view(50, -1, group).amax(-1)
        # Symmetric codes lack the top one: the extreme positive value may be a whole half step
        # further out.
        assert bool((difference <= quantized.scales * 0.5001).all())

    def test_rows_of_zeros_stay_zero(self) -> None:
        quantized = quantize_embedding(torch.zeros(4, 32), Scheme(4, 32), torch.float32)
        assert not quantized(torch.arange(4)).any()

    def test_a_lookup_gives_the_models_float_type(self) -> None:
        quantized = quantize_embedding(torch.randn(4, 32), Scheme(4, 32), torch.bfloat16)
        assert quantized(torch.tensor([[1, 2]])).dtype == torch.bfloat16

    def test_the_exported_lookup_equals_the_eager_one(self) -> None:
        quantized = quantize_embedding(torch.randn(40, 64), Scheme(4, 32), torch.float32)
        tokens = torch.tensor([[3, 39, 0]])
        exported = torch.export.export(quantized, (tokens,), strict=False).module()
        assert torch.equal(exported(tokens), quantized(tokens))


class TestLoading:
    def load(self, model: nn.Module, schemes: dict[str, Scheme], hqq: bool = False) -> list:
        weights = random_weights(shapes(model), seed=3)
        return list(load_weights(model, weights, schemes, dtype=torch.float32, tied={}, hqq=hqq))

    def test_every_weight_is_accounted_for(self) -> None:
        model = meta()
        elements = sum(each.numel() for each in model.parameters())
        records = self.load(model, dict(plan_quantization(model, ALL, group_multiple=32)))
        assert {each.name for each in records} == {"embedding", "inner", "norm", "head"}
        summary = summarize(records)
        assert (summary.layers, summary.quantized_layers) == (3, 3)
        assert summary.elements == elements
        # 4 bits and a scale of 16 (linear) or 32 (embedding) bits for 32 weights.
        assert 4.4 < summary.bits_per_weight < 5.5

    def test_bytes_of_a_quantized_linear_are_codes_scales_and_bias(self) -> None:
        model = meta()
        records = self.load(model, {"inner": Scheme(4, 32)})
        inner = next(each for each in records if each.name == "inner")
        assert inner.stored_bytes == 96 * 128 // 2 + 96 * 128 // 32 * 2 + 128 * 4

    @pytest.mark.parametrize("hqq", [False, True])
    def test_the_error_of_four_bits_is_measured(self, hqq: bool) -> None:
        model = meta()
        records = self.load(model, {"inner": Scheme(4, 32)}, hqq)
        error = next(each.error for each in records if each.name == "inner")
        original = dict(random_weights(shapes(meta()), seed=3))["inner.weight"]
        expected = (model.inner.weight.dequantize() - original).norm() / original.norm()
        assert error == pytest.approx(float(expected), rel=1e-4)
        assert 0.05 < error < 0.15

    def test_float_layers_are_counted_as_not_quantized(self) -> None:
        summary = summarize(self.load(meta(), {"inner": Scheme(4, 32)}))
        assert (summary.layers, summary.quantized_layers) == (3, 1)

    def test_a_tied_head_takes_the_embeddings_values(self) -> None:
        model = meta(128)
        weights = {k: v for k, v in random_weights(shapes(model)) if k != "head.weight"}
        records = list(
            load_weights(
                model,
                weights.items(),
                {},
                dtype=torch.float32,
                tied={"embedding.weight": "head.weight"},
                hqq=False,
            )
        )
        assert torch.equal(model.head.weight, model.embedding.weight)
        assert {each.name for each in records} >= {"embedding", "head"}

    def test_the_next_tensor_is_read_only_when_the_last_is_done(self) -> None:
        model = meta()
        read: list[str] = []

        def tensors():
            for name, tensor in random_weights(shapes(meta())):
                read.append(name)
                yield name, tensor

        records = load_weights(model, tensors(), {}, dtype=torch.float32, tied={}, hqq=False)
        next(records)
        assert read == ["embedding.weight"]


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first = dict(random_weights({"a.weight": (4, 4), "a.bias": (4,), "n.weight": (4,)}))
    again = dict(random_weights({"a.weight": (4, 4), "a.bias": (4,), "n.weight": (4,)}))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not first["a.bias"].any()
    assert bool((first["n.weight"] == 1).all())
