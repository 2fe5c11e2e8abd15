"""torchao's low-bit kernels: refused where they are absent, and called as torchao calls them.

This machine's torchao may have no such kernels. The layers are therefore tested with stand-ins that
have the operators' signatures; nothing is said here about packed bytes or speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llmx import ConfigError, ExportJob
from llmx.plugins import load
from llmx.quantize.linear import affine_linear
from llmx.quantize.plan import Scheme
from llmx.quantize.rounding import largest_value
from llmx_backend_torchao.kernels import LowBitEmbedding, LowBitLinear, LowBitTable, missing

ABSENT = not hasattr(torch.ops.torchao, "_pack_8bit_act_4bit_weight")
SHARED = {"use_shared_embedding": True}


def job(**options: Any) -> ExportJob:
    return ExportJob.create("smollm2", random_weights=True, backend="torchao", **options)


def check(**options: Any) -> None:
    load("smollm2", "torchao").backend.check(job=job(**options))


@pytest.mark.skipif(not ABSENT, reason="this torchao has the kernels")
@pytest.mark.parametrize("bits", range(1, 9))
def test_without_kernels_a_job_is_refused_and_the_operator_named(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"no low-bit kernels .*_{bits}bit_weight") as raised:
        check(qmode=f"torchao:8da{bits}w")
    assert "USE_CPP=1" in str(raised.value.remedy)


@pytest.mark.skipif(not ABSENT, reason="this torchao has the kernels")
def test_the_command_refuses_before_it_looks_for_weights(capfd: pytest.CaptureFixture[str]) -> None:
    from llmx.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["export", "smollm2", "--backend", "torchao", "--checkpoint", "/absent"])
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert "no low-bit kernels" in said
    assert "/absent" not in said


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"qmode": "torchao:fpa3w"}, "Apple's GPU only", "torchao:8da3w"),
        ({"qmode": "8da4w"}, "do not compute .*8da4w", "torchao:8da4w"),
        ({"qmode": "int8"}, "do not compute .*int8", "torchao:8da4w"),
        ({"dtype_override": "bf16"}, "compute in fp32", "fp32"),
        ({"embedding_quantize": "4,32", **SHARED}, "cannot use such a table", "torchao:4,32"),
        (
            {"backend.torchao.use_torchao_kernels_tied_embedding": True},
            "needs model.use_shared_embedding",
            "add",
        ),
    ],
)
def test_what_no_build_of_torchao_computes(
    options: dict[str, Any], message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check(**options)
    assert remedy in str(raised.value.remedy)


@pytest.mark.skipif(not ABSENT, reason="this torchao has the kernels")
def test_what_a_job_needs() -> None:
    names = missing(job(qmode="torchao:8da5w", embedding_quantize="torchao:3,32"))
    assert names == [
        "_pack_8bit_act_5bit_weight",
        "_linear_8bit_act_5bit_weight",
        "_pack_embedding_3bit",
        "_embedding_3bit",
    ]
    names = missing(job(qmode=None, embedding_quantize="torchao:2,32", **SHARED))
    assert names == [
        "_pack_8bit_act_2bit_weight",
        "_linear_8bit_act_2bit_weight",
        "_shared_embedding_2bit",
    ]


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[None]:
    """3-bit operators in plain PyTorch; ``packed`` is codes, scales and bias one after another."""
    if hasattr(torch.ops.torchao, "_pack_8bit_act_3bit_weight"):
        yield
        return
    library = torch.library.Library("torchao", "FRAGMENT")

    def define(schema: str, function: Any) -> None:
        library.define(schema)
        library.impl(schema.split("(")[0], function, "CompositeExplicitAutograd")

    def pack(
        values: Tensor, scales: Tensor, zeros: Any, group: int, bias: Any, target: Any
    ) -> Tensor:
        assert zeros is None
        assert scales.dim() == 1
        parts = [values.reshape(-1).float(), scales, *([] if bias is None else [bias])]
        return torch.cat(parts)

    def unpack(packed: Tensor, group: int, n: int, k: int) -> tuple[Tensor, Tensor | None]:
        values, scales, rest = torch.split(
            packed, [n * k, n * k // group, packed.numel() - n * k - n * k // group]
        )
        weight = (values.view(-1, group) * scales.unsqueeze(-1)).view(n, k)
        return weight, rest if rest.numel() else None

    def linear(x: Tensor, packed: Tensor, group: int, n: int, k: int) -> Tensor:
        assert x.dim() == 2
        return nn.functional.linear(x, *unpack(packed, group, n, k))

    def shared(packed: Tensor, group: int, n: int, k: int, indices: Tensor) -> Tensor:
        assert indices.dim() == 1
        return unpack(packed, group, n, k)[0][indices]

    def table(
        packed: Tensor, n: int, dim: int, scales: Tensor, zeros: Tensor, indices: Tensor
    ) -> Tensor:
        assert zeros.dtype == torch.int8
        groups = packed.view(*scales.shape, -1) - zeros.unsqueeze(-1)
        return (groups * scales.unsqueeze(-1)).view(n, dim)[indices]

    define(
        "_pack_8bit_act_3bit_weight(Tensor weight_qvals, Tensor weight_scales, "
        "Tensor? weight_zeros, int group_size, Tensor? bias, str? target) -> Tensor",
        pack,
    )
    define(
        "_linear_8bit_act_3bit_weight(Tensor activations, Tensor packed_weights, int group_size, "
        "int n, int k) -> Tensor",
        linear,
    )
    define(
        "_shared_embedding_3bit(Tensor packed_weights, int group_size, int n, int k, "
        "Tensor indices) -> Tensor",
        shared,
    )
    define("_pack_embedding_3bit(Tensor weight_qvals) -> Tensor", lambda values: values.clone())
    define(
        "_embedding_3bit(Tensor packed_weight_qvals, int num_embeddings, int embedding_dim, "
        "Tensor weight_scales, Tensor weight_zeros, Tensor indices) -> Tensor",
        table,
    )
    yield
    library._destroy()


@pytest.mark.usefixtures("stand_ins")
class TestLayers:
    @pytest.mark.parametrize("bias", [False, True])
    def test_a_linear_layer(self, bias: bool) -> None:
        linear = nn.Linear(64, 48, bias=bias)
        codes = largest_value(linear.weight.detach(), Scheme(3, 32, "float"))
        x = torch.randn(1, 5, 64)
        low_bit = LowBitLinear.in_layout(None)(linear, codes)
        exported = torch.export.export(
            low_bit, (x,), dynamic_shapes=({1: torch.export.Dim("S", max=9)},), strict=False
        )
        torch.testing.assert_close(exported.module()(x), low_bit(x))
        torch.testing.assert_close(low_bit(x), affine_linear(linear, codes)(x))

    @pytest.mark.parametrize("form", [LowBitEmbedding, LowBitTable])
    def test_an_embedding(self, form: Any) -> None:
        codes = largest_value(torch.randn(40, 64), Scheme(3, 32))
        tokens = torch.tensor([[3, 39, 0]])
        rows = form(codes, torch.float32)(tokens)
        torch.testing.assert_close(rows[0], codes.dequantize()[tokens[0]])

    def test_a_shared_table_has_the_heads_bytes(self) -> None:
        codes = largest_value(torch.randn(40, 64), Scheme(3, 32))
        head = LowBitLinear.in_layout("universal")(nn.Linear(64, 40, bias=False), codes)
        assert torch.equal(head.packed, LowBitTable(codes, torch.float32).packed)
