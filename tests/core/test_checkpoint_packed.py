"""Packed checkpoints: GPTQ, AWQ and torchao, read as the model before quantization."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from llmx import CheckpointError
from llmx.checkpoint import Checkpoint, IntegerWeight, open_checkpoint

IN, OUT, GROUP = 64, 32, 32
NAME = "model.layers.0.self_attn.q_proj"
GENERATOR = torch.Generator().manual_seed(0)


def write(folder: Path, tensors: dict[str, Tensor], described: dict[str, Any] | None) -> Path:
    config: dict[str, Any] = {"model_type": "llama"}
    if described is not None:
        config["quantization_config"] = described
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: each.contiguous() for name, each in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def words(numbers: Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Pack numbers along ``dim`` into int32, the first (or ``order[0]``-th) lowest."""
    per_word = 32 // bits
    numbers = numbers.movedim(dim, -1).long()
    numbers = numbers.reshape(*numbers.shape[:-1], -1, per_word)
    packed = torch.zeros(numbers.shape[:-1], dtype=torch.int64)
    for position in range(per_word):
        packed |= numbers[..., order[position] if order else position] << bits * position
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed)
    return packed.movedim(-1, dim).to(torch.int32)


def drawn(bits: int, zeros: str) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [in, out], zero points and fp16 scales [groups, out]."""
    top = 1 << bits
    codes = torch.randint(top, (IN, OUT), generator=GENERATOR)
    shape = (IN // GROUP, OUT)
    points = torch.randint(1, top, shape, generator=GENERATOR)
    if zeros == "centred":
        points = torch.full(shape, top // 2)
    return codes, points, (torch.rand(shape, generator=GENERATOR) * 0.1 + 0.01).half()


def gptq(
    folder: Path, bits: int = 4, zeros: str = "any", index: Tensor | None = None, **described: Any
) -> tuple[Checkpoint, Tensor]:
    """A checkpoint, and what it means by the method's formula, [out, in]."""
    codes, points, scales = drawn(bits, zeros)
    groups = torch.arange(IN) // GROUP if index is None else index
    less = 0 if described.get("checkpoint_format") == "gptq_v2" else 1
    tensors = {
        f"{NAME}.qweight": words(codes, bits, 0),
        f"{NAME}.qzeros": words((points - less) % (1 << bits), bits, 1),
        f"{NAME}.scales": scales,
        f"{NAME}.g_idx": groups.int(),
        "model.norm.weight": torch.ones(IN),
    }
    write(folder, tensors, {"quant_method": "gptq", "bits": bits, "group_size": GROUP, **described})
    expected = scales.float()[groups] * (codes - points[groups])
    return open_checkpoint(str(folder)), expected.t()


def integers(checkpoint: Checkpoint, name: str = f"{NAME}.weight") -> IntegerWeight:
    stored = checkpoint.read_stored(name)
    assert isinstance(stored, IntegerWeight)
    return stored


class TestGptq:
    @pytest.mark.parametrize("bits", [2, 4, 8])
    @pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
    def test_weights_follow_the_methods_formula(self, tmp_path: Path, bits: int, form: str) -> None:
        checkpoint, expected = gptq(tmp_path, bits, checkpoint_format=form)
        assert checkpoint.tensors[f"{NAME}.weight"].shape == (OUT, IN)
        torch.testing.assert_close(
            checkpoint.read(f"{NAME}.weight"), expected, rtol=1e-5, atol=1e-6
        )
        stored = integers(checkpoint)
        assert (stored.bits, stored.group, stored.stored) == (bits, GROUP, f"gptq int{bits}")

    def test_centred_zero_points_are_no_offsets(self, tmp_path: Path) -> None:
        checkpoint, expected = gptq(tmp_path, zeros="centred")
        assert integers(checkpoint).offsets is None
        assert torch.equal(checkpoint.read(f"{NAME}.weight"), expected)

    def test_packed_parts_do_not_show(self, tmp_path: Path) -> None:
        checkpoint, _ = gptq(tmp_path)
        assert set(checkpoint.tensors) == {f"{NAME}.weight", "model.norm.weight"}
        assert torch.equal(checkpoint.read("model.norm.weight"), torch.ones(IN))

    def test_columns_in_another_order_keep_their_groups(self, tmp_path: Path) -> None:
        index = torch.randperm(IN, generator=GENERATOR) // GROUP
        checkpoint, expected = gptq(tmp_path, index=index, desc_act=True)
        torch.testing.assert_close(
            checkpoint.read(f"{NAME}.weight"), expected, rtol=1e-5, atol=1e-6
        )
        assert integers(checkpoint).group_of_column is not None

    def test_groups_in_order_are_recognised(self, tmp_path: Path) -> None:
        checkpoint, _ = gptq(tmp_path, desc_act=True)
        assert integers(checkpoint).group_of_column is None

    def test_three_bits_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, {f"{NAME}.qweight": torch.zeros(6, 8, dtype=torch.int32)},
              {"quant_method": "gptq", "bits": 3})  # fmt: skip
        with pytest.raises(CheckpointError, match="by GPTQ to 3 bits; only 2, 4, 8 can be read"):
            open_checkpoint(str(tmp_path))

    def test_a_missing_part_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, {f"{NAME}.qweight": torch.zeros(8, 8, dtype=torch.int32)},
              {"quant_method": "gptq", "bits": 4})  # fmt: skip
        with pytest.raises(CheckpointError, match=f"but not {NAME}.qzeros, {NAME}.scales"):
            open_checkpoint(str(tmp_path))


class TestAwq:
    def test_weights_follow_the_methods_formula(self, tmp_path: Path) -> None:
        codes, points, scales = drawn(4, "any")
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        tensors = {
            f"{NAME}.qweight": words(codes, 4, 1, order),
            f"{NAME}.qzeros": words(points, 4, 1, order),
            f"{NAME}.scales": scales,
        }
        write(tmp_path, tensors, {"quant_method": "awq", "bits": 4, "version": "gemm"})
        groups = torch.arange(IN) // GROUP
        expected = (scales.float()[groups] * (codes - points[groups])).t()
        checkpoint = open_checkpoint(str(tmp_path))
        torch.testing.assert_close(
            checkpoint.read(f"{NAME}.weight"), expected, rtol=1e-5, atol=1e-6
        )
        assert integers(checkpoint).stored == "awq int4"

    def test_other_layouts_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, {f"{NAME}.qweight": torch.zeros(8, 8, dtype=torch.int32)},
              {"quant_method": "awq", "bits": 4, "version": "gemv"})  # fmt: skip
        with pytest.raises(CheckpointError, match="gemv layout"):
            open_checkpoint(str(tmp_path))


class TestTorchao:
    """The files are written by torchao's own functions."""

    def save(self, folder: Path, module: nn.Module) -> None:
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

        tensors, metadata = flatten_tensor_state_dict(module.state_dict())
        (folder / "config.json").write_text(
            json.dumps({"model_type": "llama", "quantization_config": {"quant_method": "torchao"}})
        )
        save_file(tensors, folder / "model.safetensors", metadata)

    @pytest.mark.parametrize("bits", [4, 8])
    @pytest.mark.parametrize("mapping", ["SYMMETRIC", "ASYMMETRIC"])
    def test_weights_are_what_torchao_reads(self, tmp_path: Path, bits: int, mapping: str) -> None:
        from torchao.quantization import (
            Int8DynamicActivationIntxWeightConfig,
            MappingType,
            PerGroup,
            quantize_,
        )

        module = nn.Sequential(nn.Linear(IN, OUT))
        config = Int8DynamicActivationIntxWeightConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            weight_granularity=PerGroup(GROUP),
            weight_mapping_type=MappingType[mapping],
        )
        quantize_(module, config)
        self.save(tmp_path, module)
        checkpoint = open_checkpoint(str(tmp_path))
        assert set(checkpoint.tensors) == {"0.weight", "0.bias"}
        expected = module[0].weight.dequantize()
        torch.testing.assert_close(checkpoint.read("0.weight"), expected, rtol=1e-6, atol=1e-6)
        stored = integers(checkpoint, "0.weight")
        assert (stored.bits, stored.group) == (bits, GROUP)
        assert (stored.offsets is None) == (mapping == "SYMMETRIC")

    def test_types_that_are_no_integers_in_groups_are_refused(self, tmp_path: Path) -> None:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        module = nn.Sequential(nn.Linear(IN, OUT, bias=False))
        quantize_(module, Int8WeightOnlyConfig(version=2))
        self.save(tmp_path, module)
        with pytest.raises(CheckpointError, match=r"0\.weight is a Int8Tensor of torchao"):
            open_checkpoint(str(tmp_path))


def test_integers_of_meta_need_their_scales(tmp_path: Path) -> None:
    params = {"dim": 64, "n_layers": 1, "n_heads": 4, "vocab_size": 40, "multiple_of": 32}
    (tmp_path / "params.json").write_text(json.dumps(params))
    stored = {"output.weight": torch.ones(40, 64, dtype=torch.int8)}
    torch.save({"tok_embeddings.weight": torch.ones(40, 64), **stored}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"output\.weight is stored as int8 without output"):
        open_checkpoint(str(tmp_path / "model.pth"))


def test_other_methods_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"model.norm.weight": torch.ones(4)}, {"quant_method": "bitsandbytes"})
    with pytest.raises(CheckpointError, match="is quantized by bitsandbytes") as raised:
        open_checkpoint(str(tmp_path))
    assert "gptq, awq, GGUF" in str(raised.value.remedy)


def test_packed_weights_without_a_description_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {f"{NAME}.qweight": torch.zeros(8, 8, dtype=torch.int32)}, None)
    with pytest.raises(CheckpointError, match="no quantization_config") as raised:
        open_checkpoint(str(tmp_path))
    assert "quantize_config.json" in str(raised.value.remedy)
