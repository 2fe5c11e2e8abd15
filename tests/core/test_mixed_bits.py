"""Bits are spent on the layers whose rounding changes the model's predictions most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from llmx import ConfigError
from llmx.config import BaseOptions, ExportJob, QuantizationOptions
from llmx.config.sizes import bytes_in
from llmx.model.decoder import Decoder
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams
from llmx.quantize.account import summarize
from llmx.quantize.calibration import random_sequences
from llmx.quantize.load import load_weights
from llmx.quantize.mixed import (
    Upgrade,
    budget_of,
    candidates,
    chosen_upgrades,
    planned_bytes,
    raised,
)
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx.quantize.sensitivity import divergences

PARAMS = DecoderParams(
    dim=64, n_layers=3, n_heads=2, n_kv_heads=1, head_dim=32, hidden_dim=96, vocab_size=80,
    max_position=128,
)  # fmt: skip
SCHEME = Scheme(4, 32)
OPS = plain_ops(kv_cache=False, fused_attention=False, int8_cache=False)


def decoder() -> Decoder:
    options = BuildOptions(dtype=torch.float32, max_context_length=64, full_logits=True)
    with torch.device("meta"):
        return Decoder(PARAMS, OPS, options).eval()


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name != "head.weight":
            noise = torch.randn(parameter.shape, generator=generator)
            yield name, noise * 0.15 if parameter.dim() > 1 else torch.ones(parameter.shape)


def load(model: nn.Module, schemes: dict[str, Scheme]) -> int:
    """Fill the model; the bytes of what became of it."""
    records = load_weights(
        model, weights(model), schemes, ops=OPS,
        dtype=torch.float32, tied={"embedding.weight": "head.weight"}, rounding=largest_value,
    )  # fmt: skip
    return summarize(list(records)).stored_bytes


def rounded(weight: Tensor) -> Tensor:
    return largest_value(weight, SCHEME).dequantize()


class TestSensitivity:
    TEXTS = tuple(random_sequences(range(80), length=48, limit=12))

    @cache  # noqa: B019 -- one instance
    def measured(self) -> dict[str, tuple[float, float]]:
        """By layer, the divergence that is estimated, and that its rounding really causes."""
        model = decoder()
        load(model, {})
        names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
        estimates = divergences(model, self.TEXTS, dict.fromkeys(names, rounded))
        with torch.no_grad():
            wanted = [model(text)[0].log_softmax(-1) for text in self.TEXTS]
            real = {name: self.caused(model, name, wanted) for name in names}
        return {name: (estimates[name], real[name]) for name in names}

    def caused(self, model: nn.Module, name: str, wanted: Sequence[Tensor]) -> float:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        original = linear.weight
        linear.weight = nn.Parameter(rounded(original), requires_grad=False)
        total = torch.tensor(0.0)
        for text, before in zip(self.TEXTS, wanted, strict=True):
            total += (before.exp() * (before - model(text)[0].log_softmax(-1))).sum(-1).mean()
        linear.weight = original
        return float(total) / len(self.TEXTS)

    def test_it_is_about_the_divergence_that_rounding_a_layer_causes(self) -> None:
        for name, (estimate, real) in self.measured().items():
            # What v does at one position is much like what it does at the next.
            least = 0.3 if name.endswith("v_proj") else 0.7
            assert least < estimate / real < 1.4, name

    def test_layers_are_ordered_rightly(self) -> None:
        pairs = torch.tensor(list(self.measured().values())).log()
        assert torch.corrcoef(pairs.T)[0, 1] > 0.97

    def test_it_is_the_same_every_time(self) -> None:
        model = decoder()
        load(model, {})
        changes = {"layers.1.attention.v_proj": rounded}
        first, second = (divergences(model, self.TEXTS[:2], changes) for _ in range(2))
        assert first == second

    def test_it_leaves_nothing_behind(self) -> None:
        model = decoder()
        load(model, {})
        divergences(model, self.TEXTS[:1], {"head": rounded})
        assert not any(each._forward_hooks for each in model.modules())
        assert all(each.grad is None for each in model.parameters())


class TestChoice:
    def test_what_gains_most_per_byte_comes_first(self) -> None:
        upgrades = [Upgrade("a", 1.0, 100), Upgrade("b", 0.9, 10), Upgrade("c", 0.5, 10)]
        assert chosen_upgrades(upgrades, 20) == {"b", "c"}

    def test_what_does_not_fit_makes_room_for_what_does(self) -> None:
        upgrades = [Upgrade("a", 9.0, 100), Upgrade("b", 0.1, 10)]
        assert chosen_upgrades(upgrades, 99) == {"b"}

    def test_what_gains_nothing_stays(self) -> None:
        assert chosen_upgrades([Upgrade("a", 0.0, 10)], 100) == frozenset()

    def test_layers_are_of_few_kinds(self) -> None:
        upgrades = [
            Upgrade(f"layers.{index}.{role}", 1.0 + index + at, 10)
            for index in range(8)
            for at, role in enumerate(("q", "k", "v"))
        ]
        chosen = chosen_upgrades(upgrades, 130, most_kinds=2)
        kinds = {
            frozenset(role for role in "qkv" if f"layers.{index}.{role}" in chosen)
            for index in range(8)
        }
        assert len(chosen) >= 10
        assert len(kinds) == 2

    def test_a_role_is_raised_everywhere_at_once(self) -> None:
        upgrades = [Upgrade(f"layers.{index}.v", 1.0 + index, 10) for index in range(4)]
        assert len(chosen_upgrades(upgrades, 40, most_kinds=1)) == 4
        assert not chosen_upgrades(upgrades, 39, most_kinds=1)


class TestBudget:
    @pytest.mark.parametrize("wide", [(), ("layers.0.attention.v_proj", "head")])
    def test_bytes_are_known_before_anything_is_read(self, wide: tuple[str, ...]) -> None:
        model = decoder()
        names = [
            name
            for name, each in model.named_modules()
            if isinstance(each, nn.Linear | nn.Embedding)
        ]
        schemes = raised(dict.fromkeys(names, SCHEME), frozenset(wide), model)
        planned = planned_bytes(model, schemes, {}, 4)
        assert planned == load(model, schemes)

    def test_a_table_that_is_shared_is_neither_counted_twice_nor_raised(self) -> None:
        model, shared = decoder(), {"embedding": "head"}
        schemes = {"embedding": SCHEME, "head": SCHEME, "layers.0.attention.q_proj": SCHEME}
        alone = planned_bytes(model, {**schemes}, {}, 4)
        assert planned_bytes(model, schemes, shared, 4) == alone - 80 * (64 // 2 + 2 * 2)
        assert candidates(model, schemes, shared) == ["layers.0.attention.q_proj"]

    def test_too_little_is_refused(self) -> None:
        assert budget_of(10, 4, "it") == 6
        with pytest.raises(ConfigError, match=r"target_size=1MB leaves 1\.0 MB .* take 2\.5 MB"):
            budget_of(1_000_000, 2_500_000, "target_size=1MB")


class TestOptions:
    @pytest.mark.parametrize(
        ("text", "size"),
        [("80MB", 80_000_000), ("1.5 gb", 1_500_000_000), ("20kB", 20_000), ("512", 512)],
    )
    def test_sizes_are_written_as_usual(self, text: str, size: int) -> None:
        assert bytes_in(text, "it") == size

    @pytest.mark.parametrize("text", ["", "MB", "80XB", "-3MB", "80MiB"])
    def test_what_is_no_size_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="not a size"):
            bytes_in(text, "it")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"bits": 4.5}, "bits needs a quantization.qmode of few bits"),
            ({"bits": 4.5, "qmode": "8da8w"}, "of few bits"),
            ({"target_size": "80MB", "qmode": "int8"}, "target_size needs"),
            ({"target_size": "80MB", "bits": 4.0, "qmode": "8da4w"}, "contradicts"),
            ({"bits": 0.0, "qmode": "8da4w"}, "more than 0"),
            ({"extra_bits": 0.3}, "extra_bits needs a quantization.qmode of few bits"),
            ({"extra_bits": -0.3, "qmode": "8da4w"}, "extra_bits is -0.3; it must be more than 0"),
            ({"target_size": "much", "qmode": "8da4w"}, "'much', not a size"),
        ],
    )
    def test_contradictions_are_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ExportJob(
                base=BaseOptions(model_class="any"),
                quantization=QuantizationOptions(**options),  # type: ignore[arg-type]
            )

    @pytest.mark.parametrize(
        ("options", "budget"),
        [
            ({}, None),
            ({"extra_bits": 0.3}, "extra_bits"),
            ({"extra_bits": 0.3, "bits": 5.0}, "bits"),
            ({"extra_bits": 0.3, "target_size": "80MB"}, "target_size"),
        ],
    )
    def test_an_absolute_budget_takes_the_place_of_a_relative_one(
        self, options: dict[str, object], budget: str | None
    ) -> None:
        assert QuantizationOptions(qmode="8da4w", **options).budget == budget  # type: ignore[arg-type]
