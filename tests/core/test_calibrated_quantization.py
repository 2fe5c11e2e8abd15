"""Layers are rounded for what a text makes of their inputs, one layer after the other."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmx import ConfigError
from llmx.config import BaseOptions, ExportJob, QuantizationOptions
from llmx.model.decoder import Decoder
from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams, Sinks
from llmx.quantize.account import WeightRecord
from llmx.quantize.calibrated import Calibration, Rounded
from llmx.quantize.calibration import calibration_text, random_sequences, token_sequences
from llmx.quantize.linear import rounded_per_token
from llmx.quantize.load import load_weights
from llmx.quantize.plan import Scheme
from llmx.quantize.probing import rounded_to_int8
from llmx.quantize.rounding import half_quadratic
from llmx.run.tokenizer import TextTokenizer

PARAMS = DecoderParams(
    dim=64, n_layers=3, n_heads=2, n_kv_heads=1, head_dim=32, hidden_dim=96, vocab_size=80,
    max_position=128,
)  # fmt: skip
TIED = {"embedding.weight": "head.weight"}


def call(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens, torch.tensor([0]))
    return logits


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name not in TIED.values():
            shape = parameter.shape
            yield (
                name,
                (
                    torch.randn(shape, generator=generator) * 0.15
                    if len(shape) > 1
                    else torch.ones(shape)
                ),
            )


def build(
    calibration: Calibration | None,
    *,
    bits: int | None = 4,
    head_bits: int = 4,
    fused: bool = True,
    full_logits: bool = True,
    **context: Any,
) -> tuple[nn.Module, list[WeightRecord]]:
    ops = plain_ops(kv_cache=True, fused_attention=fused, int8_cache=False)
    options = BuildOptions(
        dtype=torch.float32, max_context_length=64, full_logits=full_logits, **context
    )
    with torch.device("meta"):
        model = Decoder(PARAMS, ops, options)
    schemes = {
        name: Scheme(head_bits if name == "head" else bits, 32)
        for name, module in model.named_modules()
        if bits is not None and isinstance(module, nn.Linear | nn.Embedding)
    }
    records = load_weights(
        model.eval(), weights(model), schemes, ops=ops, dtype=torch.float32, tied=TIED,
        rounding=half_quadratic, calibration=calibration,
    )  # fmt: skip
    return model, list(records)


@cache
def texts() -> tuple[Tensor, ...]:
    return tuple(random_sequences(range(80), length=48, limit=16))


@cache
def calibrated() -> tuple[nn.Module, list[WeightRecord]]:
    return build(Calibration(texts(), call))


def divergence(model: nn.Module, **context: Any) -> float:
    """Mean KL divergence from the float model on tokens that were not calibrated on, in nats."""
    held_out = random_sequences(range(80), length=60, limit=4, seed=7)
    exact, _ = build(None, bits=None, **context)
    total = 0.0
    for tokens in held_out:
        wanted = call(exact, tokens)[0].log_softmax(-1)
        found = call(model, tokens)[0].log_softmax(-1)
        total += float((wanted.exp() * (wanted - found)).sum(-1).mean())
    return total / len(held_out)


def test_the_model_stays_closer_to_its_float_self() -> None:
    uncalibrated, _ = build(None)
    assert divergence(calibrated()[0]) < 0.9 * divergence(uncalibrated)


@pytest.mark.parametrize("context", [{"windows": [0, 8, 0]}, {"sinks": Sinks(2, 12)}])
def test_each_layer_is_rounded_for_what_its_cache_keeps(context: dict[str, Any]) -> None:
    uncalibrated, _ = build(None, **context)
    model, _ = build(Calibration(texts(), call), **context)
    assert divergence(model, **context) < 0.9 * divergence(uncalibrated, **context)


def test_the_same_text_gives_the_same_integers() -> None:
    again, _ = build(Calibration(texts(), call))
    tokens = texts()[0]
    assert torch.equal(call(again, tokens), call(calibrated()[0], tokens))


def test_every_weight_is_accounted_for_once() -> None:
    _, plain = build(None)
    assert sorted((each.name, each.stored_bytes) for each in calibrated()[1]) == sorted(
        (each.name, each.stored_bytes) for each in plain
    )


def test_linear_layers_report_the_error_of_their_outputs() -> None:
    errors = {each.name: each.output_error for each in calibrated()[1]}
    linears = {each.name for each in calibrated()[1] if each.kind == "linear"}
    assert {name for name, error in errors.items() if error is not None} == linears
    assert all(0 < errors[name] < 0.2 for name in linears)


def test_weights_change_more_than_outputs() -> None:
    for each in calibrated()[1]:
        if each.output_error is not None:
            assert each.output_error < each.error


def test_a_head_of_eight_bits_is_not_calibrated() -> None:
    _, records = build(Calibration(texts()[:2], call), head_bits=8)
    assert {each.name: each.output_error for each in records}["head"] is None


@pytest.mark.parametrize("full_logits", [False, True])
def test_the_head_is_rounded_for_every_position(full_logits: bool) -> None:
    _, records = build(Calibration(texts(), call), full_logits=full_logits)
    errors = {each.name: each.output_error for each in records}
    assert errors["head"] == pytest.approx(
        {each.name: each.output_error for each in calibrated()[1]}["head"], rel=1e-3
    )


@pytest.mark.parametrize("fused", [False, True])
def test_caches_are_left_as_they_were(fused: bool) -> None:
    model, _ = build(Calibration(texts()[:2], call), fused=fused)
    caches = [buffer for name, buffer in model.named_buffers() if name.endswith("_cache")]
    assert len(caches) == 2 * PARAMS.n_layers
    assert not any(bool(buffer.any()) for buffer in caches)


def test_a_layer_is_finished_before_the_next_is_read() -> None:
    ops = plain_ops(kv_cache=True, fused_attention=False, int8_cache=False)
    options = BuildOptions(dtype=torch.float32, max_context_length=64)
    with torch.device("meta"):
        model = Decoder(PARAMS, ops, options).eval()
    read: list[str] = []

    def recorded() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights(model):
            read.append(name)
            yield name, tensor

    schemes = {
        name: Scheme(4, 32) for name, each in model.named_modules() if isinstance(each, nn.Linear)
    }
    records = load_weights(
        model, recorded(), schemes, ops=ops, dtype=torch.float32, tied=TIED,
        rounding=half_quadratic, calibration=Calibration(texts()[:1], call),
    )  # fmt: skip
    for record in records:
        if record.name == "layers.0.feed_forward.down_proj":
            break
    assert not any(name.startswith("layers.1") for name in read)


class Remembering:
    """Results of one run, for the next."""

    def __init__(self) -> None:
        self.kept: dict[str, Rounded] = {}

    def find(self, name: str, scheme: Scheme) -> Rounded | None:
        return self.kept.get(name)

    def keep(self, name: str, rounded: Rounded) -> None:
        self.kept[name] = rounded


def errors_of(records: list[WeightRecord]) -> dict[str, float | None]:
    return {each.name: each.output_error for each in records}


class TestRemembered:
    """What an earlier run found is not computed again."""

    @pytest.fixture
    def results(self) -> Remembering:
        results = Remembering()
        build(Calibration(texts(), call, results=results))
        return results

    def test_texts_are_not_read_where_everything_is_known(self, results: Remembering) -> None:
        def refuse(model: nn.Module, tokens: Tensor) -> object:
            raise AssertionError("called")

        model, records = build(Calibration(texts(), refuse, results=results))
        assert torch.equal(call(model, texts()[0]), call(calibrated()[0], texts()[0]))
        assert errors_of(records) == errors_of(calibrated()[1])

    @pytest.mark.parametrize("gone", ["layers.1", "layers.2.feed_forward.down_proj", "head"])
    def test_what_is_missing_is_found_again(self, results: Remembering, gone: str) -> None:
        results.kept = {
            name: each for name, each in results.kept.items() if not name.startswith(gone)
        }
        _, records = build(Calibration(texts(), call, results=results))
        wanted = errors_of(calibrated()[1])
        assert {name for name, error in errors_of(records).items() if error is not None} == {
            name for name, error in wanted.items() if error is not None
        }
        for name, error in errors_of(records).items():
            # The layers before are quantized ones now, which round a little differently.
            assert error == (None if wanted[name] is None else pytest.approx(wanted[name], rel=0.1))


def test_inputs_are_rounded_as_the_device_does() -> None:
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(1, 20, 1, generator=generator)
    for offset in (-3.0, 0.0, 3.0):
        x = torch.randn(1, 20, 64, generator=generator) * strengths + offset
        torch.testing.assert_close(rounded_to_int8(x), rounded_per_token(x), rtol=1e-6, atol=1e-6)


class Letters(TextTokenizer):
    """One token per character; 0 stands in front of a text."""

    size = 128

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 128 for letter in text]

    def encode_document(self, text: str) -> list[int]:
        return [0, *self.encode(text)]

    def decode(self, tokens: object) -> str:
        raise NotImplementedError

    def spelling(self, token: int) -> str | None:
        raise NotImplementedError


class TestTexts:
    def test_each_piece_begins_as_a_text_does(self) -> None:
        pieces = token_sequences("abcdefgh", Letters(), length=4)
        assert [piece.tolist() for piece in pieces] == [[[0, 97, 98, 99]], [[0, 100, 101, 102]]]

    def test_a_short_text_is_one_piece(self) -> None:
        assert [piece.tolist() for piece in token_sequences("a", Letters(), length=4)] == [
            [[0, 97]]
        ]

    def test_no_more_than_the_limit(self) -> None:
        assert len(token_sequences("a" * 100, Letters(), length=4, limit=5)) == 5

    def test_tokens_that_the_model_does_not_read_are_left_out(self) -> None:
        pieces = token_sequences("abcdefgh", Letters(), length=4, vocabulary=[0, 98, 100, 103])
        assert [piece.tolist() for piece in pieces] == [[[0, 98, 100, 103]]]

    def test_the_text_of_llmx_is_long_enough_for_a_hessian(self) -> None:
        text = calibration_text(None)
        assert len(text) > 12_000
        assert all(part in text for part in ("def ", "Die ", "User:"))

    def test_a_users_text_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("Grüße", "utf-8")
        assert calibration_text(str(tmp_path / "text")) == "Grüße"

    def test_texts_that_cannot_be_used_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nowhere cannot be read: No such file"):
            calibration_text("nowhere")
        (tmp_path / "binary").write_bytes(b"ab\xff\xfe")
        with pytest.raises(ConfigError, match="byte 2 is not UTF-8"):
            calibration_text(str(tmp_path / "binary"))
        (tmp_path / "empty").write_text(" \n")
        with pytest.raises(ConfigError, match="is empty"):
            calibration_text(str(tmp_path / "empty"))


class TestOptions:
    def test_the_older_tools_mode_names_the_method(self) -> None:
        options = QuantizationOptions(qmode="8da4w-gptq")
        assert (options.qmode, options.method) == ("8da4w", "gptq")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"qmode": "8da4w-gptq", "method": "hqq"}, "contradicts quantization.method hqq"),
            ({"method": "gptq"}, "method gptq needs quantization.qmode"),
            ({"qmode": "8da4w", "method": "hqq", "use_hqq": False}, "contradicts"),
            ({"qmode": "8da4w", "method": "gptq", "use_hqq": True}, "contradicts"),
            ({"qmode": "8da4w", "calibration_file": "a"}, "needs a method that calibrates"),
            (
                {"qmode": "8da4w", "method": "gptq", "calibration_limit": 0},
                "calibration_limit is 0",
            ),
        ],
    )
    def test_contradictions_are_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            ExportJob(
                base=BaseOptions(model_class="any"),
                quantization=QuantizationOptions(**options),  # type: ignore[arg-type]
            )
