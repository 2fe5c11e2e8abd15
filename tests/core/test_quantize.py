"""Quantization: every layer accounted for, group sizes honoured or refused, errors bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from llmx import ConfigError
from llmx.config import QuantizationOptions
from llmx.model.ops import plain_ops
from llmx.quantize.account import WeightRecord, summarize
from llmx.quantize.codes import Order, Rounding, pack
from llmx.quantize.embedding import QuantizedEmbedding, table_as_kernels_read_it
from llmx.quantize.linear import BLOCK, RowLinear, affine_linear
from llmx.quantize.load import load_weights
from llmx.quantize.plan import Scheme, plan_quantization, planning_notes
from llmx.quantize.random_weights import random_weights
from llmx.quantize.rounding import (
    half_a_step_beyond,
    half_quadratic,
    largest_value,
    least_squares,
    rounding_for_linears,
)


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


def load(
    model: nn.Module,
    tensors: Iterable[tuple[str, torch.Tensor]],
    schemes: Mapping[str, Scheme],
    *,
    tied: Mapping[str, str] | None = None,
    rounding: Rounding = largest_value,
    shared: Mapping[str, str] | None = None,
) -> Iterator[WeightRecord]:
    return load_weights(
        model,
        tensors,
        schemes,
        ops=plain_ops(kv_cache=False, fused_attention=False, int8_cache=False),
        dtype=torch.float32,
        tied=tied or {},
        rounding=rounding,
        shared=shared,
    )


ALL = QuantizationOptions(qmode="8da4w", embedding_quantize="4,32")


MODES = {
    "8da4w": (4, "int8"),
    "8da8w": (8, "int8"),
    "int8": (8, "float"),
    "4w": (4, "float"),
    "torchao:8da5w": (5, "int8"),
    "torchao:fpa3w": (3, "float"),
}


def planned(width: int = 96, multiple: int = 32, **options: Any) -> tuple[Any, list[str]]:
    """The schemes and what is said about them."""
    model, wanted = meta(width), QuantizationOptions(**options)
    schemes = plan_quantization(model, wanted, group_multiple=multiple)
    return schemes, list(planning_notes(model, wanted, schemes))


class TestPlan:
    def test_every_linear_and_embedding_has_a_scheme(self) -> None:
        schemes = plan_quantization(meta(), ALL, group_multiple=32)
        assert schemes == {
            "embedding": Scheme(4, 32),
            "inner": Scheme(4, 32),
            "head": Scheme(4, 32),
        }

    @pytest.mark.parametrize("qmode", MODES)
    def test_a_mode_is_bits_and_what_they_are_multiplied_with(self, qmode: str) -> None:
        bits, activations = MODES[qmode]
        schemes, notes = planned(qmode=qmode)
        assert {each.bits for each in schemes.values()} == {bits}
        assert {each.activations for each in schemes.values()} == {activations}
        assert notes == []

    def test_eight_bits_have_one_scale_per_row_unless_a_group_is_asked_for(self) -> None:
        assert planned(qmode="8da8w")[0]["inner"].group == 96
        assert planned(qmode="8da8w", group_size=16)[0]["inner"].group == 16

    def test_the_head_may_have_a_format_of_its_own(self) -> None:
        schemes, notes = planned(qmode="8da4w", head_quantize="8,0")
        assert (schemes["head"], schemes["inner"]) == (Scheme(8, 128), Scheme(4, 32))
        assert notes == []
        schemes, notes = planned(80, 8, qmode="8da4w", head_quantize="4,64")
        assert schemes["head"] == Scheme(4, 64)

    def test_nothing_is_quantized_without_modes(self) -> None:
        assert planned() == ({}, [])

    def test_the_automatic_group_divides_every_width(self) -> None:
        schemes, notes = planned(80, 8, qmode="8da4w")
        assert schemes == {"inner": Scheme(4, 16), "head": Scheme(4, 32)}
        assert notes == []

    def test_a_group_that_divides_is_honoured(self) -> None:
        assert planned(qmode="8da4w", group_size=32)[0]["head"] == Scheme(4, 32)

    def test_a_group_of_zero_is_the_whole_row(self) -> None:
        schemes, notes = planned(qmode="8da4w", group_size=0, embedding_quantize="8,0")
        assert schemes == {
            "embedding": Scheme(8, 96), "inner": Scheme(4, 96), "head": Scheme(4, 128)
        }  # fmt: skip
        assert notes == []

    def test_a_width_that_the_group_does_not_divide_gets_the_largest_that_does(self) -> None:
        schemes, notes = planned(qmode="8da4w", group_size=64)
        assert schemes == {"inner": Scheme(4, 32), "head": Scheme(4, 64)}
        assert notes == [
            "quantization.group_size=64 does not fit 1 layer of width 96: "
            "4 bits in groups of 32 there"
        ]

    def test_a_width_that_the_kernels_take_no_group_of_gets_rows_of_eight_bits(self) -> None:
        schemes, notes = planned(80, qmode="8da4w")
        assert schemes == {"inner": Scheme(8, 80), "head": Scheme(4, 32)}
        assert notes == [
            "quantization.qmode=8da4w does not fit 1 layer of width 80: "
            "8 bits in groups of 80 there"
        ]

    def test_a_group_that_the_kernels_do_not_take_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"group_size=16: .* groups of 32") as raised:
            planned(qmode="8da4w", group_size=16)
        assert raised.value.remedy == "use 32 or 64, or leave the group size out"

    def test_an_embedding_group_that_does_not_divide_is_the_largest_that_does(self) -> None:
        schemes, notes = planned(embedding_quantize="4,64")
        assert schemes == {"embedding": Scheme(4, 48)}
        assert notes == [
            "quantization.embedding_quantize=4,64 does not fit 1 layer of width 96: "
            "4 bits in groups of 48 there"
        ]

    def test_a_shared_table_is_what_the_embedding_is_to_be(self) -> None:
        shared = {"embedding": "head"}
        options = QuantizationOptions(qmode="8da4w", embedding_quantize="8,0")
        model = meta(128)
        schemes = plan_quantization(model, options, group_multiple=32, shared=shared)
        assert list(planning_notes(model, options, schemes, shared)) == []
        assert schemes == {
            "embedding": Scheme(8, 128), "inner": Scheme(4, 32), "head": Scheme(8, 128)
        }  # fmt: skip


class TestPacking:
    @pytest.mark.parametrize(
        ("bits", "order"), [(2, "first low"), (4, "first high"), (4, "first low")]
    )
    def test_codes_come_back_from_their_bytes(self, bits: int, order: Order) -> None:
        codes = torch.randint(-(1 << bits - 1), 1 << bits - 1, (5, 16), dtype=torch.int8)
        packed = pack(codes, bits, order)
        assert packed.numel() == codes.numel() * bits // 8
        places = range(0, 8, bits) if order == "first low" else range(8 - bits, -1, -bits)
        found = [(packed.int() >> place) % (1 << bits) - (1 << bits - 1) for place in places]
        assert torch.equal(torch.stack(found, -1).view(5, 16), codes.int())


class TestRounding:
    @pytest.mark.parametrize(
        "rounding", [largest_value, half_quadratic, least_squares, half_a_step_beyond]
    )
    @pytest.mark.parametrize("bits", [3, 4, 8])
    def test_codes_times_scales_are_near(self, rounding: Rounding, bits: int) -> None:
        weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
        codes = rounding(weight, Scheme(bits, 32))
        assert codes.values.dtype == torch.int8
        assert codes.scales.shape == (40, 3)
        assert int(codes.values.min()) >= -(1 << bits - 1)
        assert int(codes.values.max()) < 1 << bits - 1
        error = (codes.dequantize() - weight).norm() / weight.norm()
        assert float(error) < 1.7 / (1 << bits)

    @pytest.mark.parametrize("bits", [3, 4, 8])
    def test_searched_scales_are_nearest_and_half_quadratic_ones_next(self, bits: int) -> None:
        weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
        errors = [
            float((rounding(weight, Scheme(bits, 32)).dequantize() - weight).norm())
            for rounding in (least_squares, half_quadratic, largest_value)
        ]
        assert errors == sorted(errors)

    @pytest.mark.parametrize("rounding", [least_squares, half_a_step_beyond])
    def test_zeros_stay_zero_beside_other_groups(self, rounding: Rounding) -> None:
        weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
        weight[1, 32:] = 0
        codes = rounding(weight, Scheme(4, 32))
        assert not codes.dequantize()[1, 32:].any()
        assert bool((codes.scales > 0).all())

    def test_the_options_name_the_rounding(self) -> None:
        def chosen(**given: Any) -> Rounding:
            return rounding_for_linears(QuantizationOptions(qmode="8da4w", **given))

        assert chosen() is chosen(method="search") is chosen(method="gptq") is least_squares
        assert chosen(use_hqq=True) is chosen(method="hqq") is half_quadratic
        assert chosen(use_hqq=False) is chosen(method="rounding") is largest_value


def embedding(table: torch.Tensor, scheme: Scheme, dtype: torch.dtype = torch.float32) -> Any:
    return QuantizedEmbedding(half_a_step_beyond(table, scheme), dtype)


class TestEmbedding:
    @pytest.mark.parametrize(
        ("bits", "group"), [(2, 32), (4, 32), (8, 32), (2, 96), (4, 96), (8, 96)]
    )
    def test_every_value_is_within_half_a_step(self, bits: int, group: int) -> None:
        table = torch.randn(50, 96)
        quantized = embedding(table, Scheme(bits, group))
        difference = (quantized(torch.arange(50)) - table).abs().view(50, -1, group).amax(-1)
        # Symmetric codes lack the top one: the extreme positive value may be a whole half step
        # further out.
        assert bool((difference <= quantized.scales * 0.5001).all())

    def test_rows_of_zeros_stay_zero(self) -> None:
        assert not embedding(torch.zeros(4, 32), Scheme(4, 32))(torch.arange(4)).any()

    def test_a_lookup_gives_the_models_float_type(self) -> None:
        quantized = embedding(torch.randn(4, 32), Scheme(4, 32), torch.bfloat16)
        assert quantized(torch.tensor([[1, 2]])).dtype == torch.bfloat16

    @pytest.mark.parametrize("form", [QuantizedEmbedding, table_as_kernels_read_it])
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_the_exported_lookup_equals_the_eager_one_and_the_codes(
        self, form: Any, bits: int
    ) -> None:
        codes = half_a_step_beyond(torch.randn(40, 64), Scheme(bits, 32))
        quantized, tokens = form(codes, torch.float32), torch.tensor([[3, 39, 0]])
        exported = torch.export.export(quantized, (tokens,), strict=False).module()
        assert torch.equal(exported(tokens), quantized(tokens))
        assert torch.equal(quantized(tokens)[0], codes.dequantize()[tokens[0]])


class TestLinearForms:
    """The same codes give the same layer, whatever kernels it is made for."""

    @pytest.mark.parametrize("form", [affine_linear, RowLinear])
    @pytest.mark.parametrize("bits", [4, 8])
    def test_float_activations_are_multiplied_with_the_rounded_weight(
        self, form: Any, bits: int
    ) -> None:
        linear = nn.Linear(64, 48)
        codes = largest_value(linear.weight.detach(), Scheme(bits, 32, "float"))
        x, bias = torch.randn(1, 3, 64), linear.bias.detach()
        expected = nn.functional.linear(x, codes.dequantize(), bias)
        torch.testing.assert_close(form(linear, codes)(x), expected)

    def test_both_forms_round_activations_alike(self) -> None:
        x, results = torch.randn(1, 3, 64), []
        weight = torch.randn(48, 64)
        for form in (affine_linear, RowLinear):
            linear = nn.Linear(64, 48, bias=False)
            linear.weight = nn.Parameter(weight)
            results.append(form(linear, largest_value(weight, Scheme(4, 32)))(x))
        assert float((results[0] - results[1]).abs().max()) < 0.02 * float(results[0].std())
        exact = nn.functional.linear(x, largest_value(weight, Scheme(4, 32)).dequantize())
        assert not torch.allclose(results[1], exact, rtol=1e-4)

    def test_many_rows_are_dequantized_in_blocks(self) -> None:
        linear = nn.Linear(8, BLOCK + 5)
        codes = largest_value(linear.weight.detach(), Scheme(8, 8, "float"))
        x, bias = torch.randn(1, 2, 8), linear.bias.detach()
        expected = nn.functional.linear(x, codes.dequantize(), bias)
        torch.testing.assert_close(RowLinear(linear, codes)(x), expected)


class TestLoading:
    def load(
        self, model: nn.Module, schemes: dict[str, Scheme], rounding: Rounding = largest_value
    ) -> list[WeightRecord]:
        return list(load(model, random_weights(shapes(model), seed=3), schemes, rounding=rounding))

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

    @pytest.mark.parametrize("rounding", [largest_value, half_quadratic])
    def test_the_error_of_four_bits_is_measured(self, rounding: Rounding) -> None:
        model = meta()
        records = self.load(model, {"inner": Scheme(4, 32)}, rounding)
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
        records = list(load(model, weights.items(), {}, tied={"embedding.weight": "head.weight"}))
        assert torch.equal(model.head.weight, model.embedding.weight)
        assert {each.name for each in records} >= {"embedding", "head"}

    @pytest.mark.parametrize(("scheme", "further"), [(Scheme(8, 128), 0), (Scheme(4, 32), 2 / 32)])
    def test_a_shared_table_is_rounded_once_and_counted_once(
        self, scheme: Scheme, further: float
    ) -> None:
        model = meta(128)
        weights = {k: v for k, v in random_weights(shapes(model)) if k != "head.weight"}
        records = load(
            model,
            weights.items(),
            {"embedding": scheme, "head": scheme},
            tied={"embedding.weight": "head.weight"},
            shared={"embedding": "head"},
        )
        table, head = (each for each in records if each.kind != "other" and each.name != "inner")
        assert torch.equal(
            model.embedding(torch.arange(50)[None])[0], model.head.weight.dequantize()
        )
        assert (table.shares, head.shares) == (None, "embedding")
        assert table.error == head.error > 0
        # What the head adds are scales of a type of its own, if any.
        assert head.stored_bytes == int(50 * 128 * further)
        assert summarize([table, head]).elements == 50 * 128

    def test_the_next_tensor_is_read_only_when_the_last_is_done(self) -> None:
        model = meta()
        read: list[str] = []

        def tensors():
            for name, tensor in random_weights(shapes(meta())):
                read.append(name)
                yield name, tensor

        records = load(model, tensors(), {})
        next(records)
        assert read == ["embedding.weight"]


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first = dict(random_weights({"a.weight": (4, 4), "a.bias": (4,), "n.weight": (4,)}))
    again = dict(random_weights({"a.weight": (4, 4), "a.bias": (4,), "n.weight": (4,)}))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not first["a.bias"].any()
    assert bool((first["n.weight"] == 1).all())
