"""Integers of a checkpoint in the model: kept where kernels hold them, accounted for otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmx.checkpoint import IntegerWeight
from llmx.model.ops import plain_ops
from llmx.quantize.account import WeightRecord, import_notes
from llmx.quantize.imported import ImportRules, OffsetLinear, import_embedding, kernel_form
from llmx.quantize.load import load_weights
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value

GENERATOR = torch.Generator().manual_seed(1)
ROWS, WIDTH = 40, 64


def integers(
    *, bits: int = 4, group: int = 32, signed: bool = False, offsets: bool = False, **more: Any
) -> IntegerWeight:
    top = 1 << bits - 1
    shape = (ROWS, WIDTH // group)
    scales = torch.rand(shape, generator=GENERATOR) * 0.1 + 0.01
    signs = torch.randint(2, shape, generator=GENERATOR) * 2 - 1
    return IntegerWeight(
        codes=torch.randint(-top, top, (ROWS, WIDTH), generator=GENERATOR, dtype=torch.int8),
        # Representable in bf16, so that nothing else than what is tested can differ.
        scales=(scales * (signs if signed else 1)).bfloat16().float(),
        offsets=torch.randn(shape, generator=GENERATOR) if offsets else None,
        bits=bits,
        stored="made",
        **more,
    )


def load(
    weight: IntegerWeight, module: nn.Module, rules: ImportRules, scheme: Scheme | None = None
) -> tuple[WeightRecord, Any]:
    model = nn.ModuleDict({"part": module.to("meta")})
    schemes = {} if scheme is None else {"part": scheme}
    (record,) = load_weights(
        model,
        [("part.weight", weight)],
        schemes,
        dtype=torch.float32,
        tied={},
        rounding=largest_value,
        ops=plain_ops(kv_cache=False, fused_attention=False, int8_cache=False),
        imports=rules,
    )
    return record, model["part"]


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, ROWS, bias=False)


def with_int8_activations(x: torch.Tensor) -> torch.Tensor:
    """Rounded per token to 256 steps between its least and its greatest value, 0 included."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    zero = (-128 - low / scale).round()
    return (((x / scale).round() + zero).clamp(-128, 127) - zero) * scale


@pytest.mark.parametrize("signed", [False, True], ids=["positive", "any sign"])
@pytest.mark.parametrize("offsets", [False, True], ids=["centred", "offsets"])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_linear_layer_computes_with_the_stored_values(
    bits: int, offsets: bool, signed: bool
) -> None:
    weight = integers(bits=bits, offsets=offsets, signed=signed)
    record, module = load(weight, linear(), ImportRules(group_multiple=32))
    assert record.kept
    assert record.error < 1e-6
    x = torch.randn(5, WIDTH, generator=GENERATOR)
    values, rounded = weight.dequantize(), with_int8_activations(x)
    assert float((module(x) - rounded @ values.T).norm() / (x @ values.T).norm()) < 0.03
    # Exactly: offsets see the activations before they are rounded.
    form = kernel_form(weight)
    codes = form.codes * form.scales.repeat_interleave(32, 1)
    expected = rounded @ codes.T
    if form.offsets is not None:
        expected = expected + x @ form.offsets.repeat_interleave(32, 1).T
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(module, OffsetLinear) == (form.offsets is not None)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kernels_get_positive_scales_and_the_same_values(bits: int) -> None:
    weight = integers(bits=bits, signed=True, offsets=True)
    weight.scales[0, 0] = 0
    form = kernel_form(weight)
    assert bool((form.scales > 0).all())
    assert int(form.codes.min()) >= -(1 << bits - 1)
    assert int(form.codes.max()) < 1 << bits - 1
    assert form.offsets is not None
    values = form.codes * form.scales.repeat_interleave(32, 1)
    values = values + form.offsets.repeat_interleave(32, 1)
    torch.testing.assert_close(values, weight.dequantize(), rtol=1e-6, atol=1e-6)


def test_eight_bits_per_row_are_kept() -> None:
    weight = integers(bits=8, group=WIDTH)
    rules = ImportRules(group_multiple=32, int8_groups=False)
    record, module = load(weight, linear(), rules)
    assert record.kept
    assert torch.equal(module.weight.dequantize(), weight.dequantize())
    assert record.stored_bytes == ROWS * WIDTH + ROWS * 4


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("offsets", [False, True], ids=["centred", "offsets"])
def test_an_embedding_keeps_any_groups(bits: int, offsets: bool) -> None:
    weight = integers(bits=bits, group=16, signed=True, offsets=offsets)
    if offsets:
        weight.scales[3, 1] = 0
    table = import_embedding(weight, torch.float32)
    tokens = torch.tensor([[3, 0, 39]])
    expected = weight.dequantize()[tokens]
    torch.testing.assert_close(table(tokens), expected, rtol=1e-5, atol=1e-5)
    exported = torch.export.export(table, (tokens,), strict=False).module()
    assert torch.equal(exported(tokens), table(tokens))


XNNPACK_LIKE = ImportRules(group_multiple=32, int8_groups=False, offset_bits=0.5)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (integers(bits=8), "8-bit codes in groups of 32"),
        (integers(bits=6, group=16), "6-bit codes in groups of 16"),
        (integers(group=16), "groups of 16; kernels take multiples of 32"),
        (integers(offsets=True), "add 1 bit to each weight; quantization.imported=keep"),
        (integers(group_of_column=torch.arange(WIDTH) % 2), "scattered"),
    ],
    ids=["8 bits", "6 bits", "small groups", "costly offsets", "scattered"],
)
def test_what_kernels_do_not_hold_follows_the_jobs_scheme(
    weight: IntegerWeight, reason: str
) -> None:
    record, module = load(weight, linear(), XNNPACK_LIKE, Scheme(4, 32))
    assert not record.kept
    assert record.stored == "made"
    assert reason in str(record.obstacle)
    assert (record.bits, record.group) == (4, 32)
    assert module.weight.qdata.dtype == torch.int8


def test_without_a_scheme_it_is_expanded_exactly() -> None:
    weight = integers(bits=8)
    record, module = load(weight, linear(), XNNPACK_LIKE)
    assert torch.equal(module.weight, weight.dequantize())
    assert (record.bits, record.group) == (32, None)


def test_cheap_offsets_are_kept_without_asking() -> None:
    record, _ = load(integers(group=64, offsets=True), linear(), XNNPACK_LIKE)
    assert record.kept


def test_a_job_that_asks_for_fewer_bits_gets_them() -> None:
    weight = integers(bits=8, group=WIDTH)
    record, _ = load(weight, linear(), ImportRules(shrink=True), Scheme(4, 32))
    assert (record.kept, record.bits) == (False, 4)
    assert "the job asks for 4 bits" in str(record.obstacle)
    record, _ = load(weight, linear(), ImportRules(shrink=True))
    assert (record.kept, record.bits) == (True, 8)


def test_bytes_are_codes_scales_and_offsets() -> None:
    record, _ = load(integers(offsets=True), linear(), ImportRules(group_multiple=32))
    groups = ROWS * WIDTH // 32
    assert record.stored_bytes == ROWS * WIDTH // 2 + groups * 2 + groups * 4


def test_scales_that_kernels_round_count_as_error() -> None:
    weight = integers()
    weight.scales.mul_(1.001)
    record, _ = load(weight, linear(), ImportRules(group_multiple=32))
    assert 1e-5 < record.error < 2**-8


def test_notes_say_what_was_kept_and_what_was_not() -> None:
    def record(obstacle: str | None, bits: int, group: int | None) -> WeightRecord:
        return WeightRecord(name="a", kind="linear", elements=1, bits=bits, group=group,
                            stored_bytes=1, stored="q4_1", obstacle=obstacle)  # fmt: skip

    kept = [record(None, 4, 32)] * 2
    assert import_notes([*kept, record("why", 4, 32), record("why", 32, None)]) == [
        "2 layers kept as the checkpoint's q4_1",
        "1 layer of q4_1 quantized again, to 4 bits: why",
        "1 layer of q4_1 expanded to 32-bit floats: why",
    ]
