"""GGUF: tensors of every type, metadata under Hugging Face names, and damaged files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from llmx.checkpoint import apply, gguf_decoder_map, hf_decoder_map, open_checkpoint, plan
from llmx.checkpoint.gguf_reader import GgufCheckpoint
from llmx.errors import CheckpointError
from llmx.model.params import DecoderParams

DIM, HEADS, KV_HEADS, HIDDEN, VOCAB = 64, 4, 2, 96, 40
HEAD_DIM = DIM // HEADS
METADATA: dict[str, Any] = {
    "embedding_length": DIM,
    "block_count": 2,
    "feed_forward_length": HIDDEN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": HEAD_DIM,
    "context_length": 128,
    "vocab_size": VOCAB,
}
PARAMS = DecoderParams(
    dim=DIM,
    n_layers=2,
    n_heads=HEADS,
    n_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    hidden_dim=HIDDEN,
    vocab_size=VOCAB,
    max_position=128,
    tied_embeddings=True,
)


def save(
    path: Path,
    tensors: dict[str, np.ndarray | tuple[np.ndarray, Type]],
    metadata: dict[str, Any] = METADATA,
    architecture: str = "llama",
    **general: Any,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {
        **{f"{architecture}.{k}": v for k, v in metadata.items()},
        **general,
    }.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }[type(value)]
        add(key, value)
    for name, value in tensors.items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[0], raw_dtype=value[1])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def decoder_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, DIM),
        "output_norm.weight": (DIM,),
    }
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (DIM,),
            f"blk.{layer}.ffn_norm.weight": (DIM,),
            f"blk.{layer}.attn_q.weight": (DIM, DIM),
            f"blk.{layer}.attn_k.weight": (KV_HEADS * HEAD_DIM, DIM),
            f"blk.{layer}.attn_v.weight": (KV_HEADS * HEAD_DIM, DIM),
            f"blk.{layer}.attn_output.weight": (DIM, DIM),
            f"blk.{layer}.ffn_gate.weight": (HIDDEN, DIM),
            f"blk.{layer}.ffn_up.weight": (HIDDEN, DIM),
            f"blk.{layer}.ffn_down.weight": (DIM, HIDDEN),
        }
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def quantizable() -> list[Type]:
    """Types that the gguf package can both write and read."""
    row = np.ones((1, 256), dtype=np.float32)
    types = []
    for kind in Type:
        try:
            gguf.quantize(row, kind)
        except (NotImplementedError, KeyError):
            continue
        types.append(kind)
    return types


@pytest.mark.parametrize("kind", quantizable(), ids=lambda kind: kind.name)
def test_every_writable_type_reads_back_within_its_precision(tmp_path: Path, kind: Type) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 256), dtype=np.float32)
    stored = gguf.quantize(weight, kind)
    tensors = {"blk.0.attn_v.weight": (stored, kind), "output_norm.weight": np.ones(4, np.float32)}
    checkpoint = open_checkpoint(str(save(tmp_path / "model.gguf", tensors)))
    info = checkpoint.tensors["blk.0.attn_v.weight"]
    assert (info.shape, info.dtype) == ((3, 256), kind.name.lower())
    tensor = checkpoint.read("blk.0.attn_v.weight")
    assert tensor.shape == (3, 256)
    expected = torch.from_numpy(gguf.dequantize(stored, kind))
    torch.testing.assert_close(tensor.float(), expected, rtol=0, atol=0)
    stays = {"F16": torch.float16, "BF16": torch.bfloat16}
    assert tensor.dtype == stays.get(kind.name, torch.float32)


def test_types_that_only_others_write_are_read_too(tmp_path: Path) -> None:
    packed = np.random.default_rng(2).integers(0, 255, (2, 144), dtype=np.uint8)
    packed[:, 0:4] = np.array([0.5, 0.25], dtype=np.float16).view(np.uint8)  # scale and minimum
    path = save(tmp_path / "model.gguf", {"w": (packed, Type.Q4_K)})
    tensor = open_checkpoint(str(path)).read("w")
    assert tensor.shape == (2, 256)
    assert torch.equal(tensor, torch.from_numpy(gguf.dequantize(packed, Type.Q4_K)))


def test_integer_tensors_are_refused_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "model.gguf", {"ids": np.ones(4, dtype=np.int32)})
    with pytest.raises(CheckpointError, match="tensor ids is stored as i32"):
        open_checkpoint(str(path)).read("ids")


def test_qk_rows_come_back_in_the_order_that_transformers_uses(tmp_path: Path) -> None:
    """The reference is transformers' own loader of the same file, for an architecture whose
    converters reorder q and k.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = save(tmp_path / "model.gguf", decoder_tensors())  # type: ignore[arg-type]
    config = LlamaConfig(
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=HIDDEN,
        vocab_size=VOCAB,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        shell = LlamaForCausalLM(config)
    loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=shell)["tensors"]
    names = hf_decoder_map(PARAMS)
    reference = {names.find(name)[0]: tensor for name, tensor in loaded.items()}  # type: ignore[index]
    expected = {name: tuple(tensor.shape) for name, tensor in reference.items()}

    checkpoint = open_checkpoint(str(path))
    steps = plan(gguf_decoder_map(PARAMS, interleaved_qk=True), checkpoint, expected)
    converted = dict(apply(steps, checkpoint))
    assert converted.keys() == reference.keys()
    for name, tensor in converted.items():
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=0)


def test_rows_stay_where_they_are_for_other_architectures(tmp_path: Path) -> None:
    tensors = decoder_tensors()
    path = save(tmp_path / "model.gguf", tensors, architecture="qwen3")  # type: ignore[arg-type]
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.interleaved_qk is None
    weight_map = gguf_decoder_map(PARAMS, interleaved_qk=False)
    expected = {
        weight_map.find(name)[0]: info.shape  # type: ignore[index]
        for name, info in checkpoint.tensors.items()
    }
    converted = dict(apply(plan(weight_map, checkpoint, expected), checkpoint))  # type: ignore[arg-type]
    q = converted["layers.1.attention.q_proj.weight"]
    assert np.array_equal(q.numpy(), tensors["blk.1.attn_q.weight"])


def config_of(tmp_path: Path, tensors: dict[str, np.ndarray], **changes: Any) -> dict[str, Any]:
    metadata = {**METADATA, **{key.replace("__", "."): v for key, v in changes.items()}}
    return dict(open_checkpoint(str(save(tmp_path / "m.gguf", tensors, metadata))).config)  # type: ignore[arg-type]


def test_metadata_is_told_under_hugging_face_names(tmp_path: Path) -> None:
    assert config_of(tmp_path, decoder_tensors()) == {
        "model_type": "llama",
        "hidden_size": DIM,
        "num_hidden_layers": 2,
        "intermediate_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 128,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "qkv_bias": False,
        "mlp_bias": False,
        "use_qk_norm": False,
    }


def test_arrays_of_the_header_are_what_the_package_reads(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "strings": ["", "a", "ü", "<|end|>", "x" * 300],
        "integers": [3, -4, 5],
        "floats": [0.5, -1.25],
        "truths": [True, False],
        "lists": [[1, 2], [3, 4]],
        "words": [["a", "b"], ["c", "d"]],
    }
    path = save(tmp_path / "m.gguf", decoder_tensors(), **arrays)  # type: ignore[arg-type]
    checkpoint = open_checkpoint(str(path))
    assert isinstance(checkpoint, GgufCheckpoint)
    fields = gguf.GGUFReader(path).fields
    assert checkpoint.metadata == {name: field.contents() for name, field in fields.items()}
    assert {name: checkpoint.metadata[name] for name in list(arrays)[:4]} == dict(
        list(arrays.items())[:4]
    )


def test_what_the_header_leaves_out_is_read_off_the_tensors(tmp_path: Path) -> None:
    small = np.ones(4, dtype=np.float32)
    extra = {
        "output.weight": np.ones((VOCAB, DIM), dtype=np.float32),
        "blk.0.attn_q.bias": small,
        "blk.0.attn_q_norm.weight": small,
    }
    config = config_of(tmp_path, {**decoder_tensors(), **extra}, attention__key_length=32)
    assert config["tie_word_embeddings"] is False
    assert (config["qkv_bias"], config["attention_bias"]) == (True, False)
    assert config["use_qk_norm"] is True
    assert config["head_dim"] == 32
    assert config["partial_rotary_factor"] == 0.5


def test_the_vocabulary_size_falls_back_to_the_token_table(tmp_path: Path) -> None:
    metadata = {key: value for key, value in METADATA.items() if key != "vocab_size"}
    general = {"tokenizer.ggml.tokens": ["a", "b", "c"]}
    path = save(tmp_path / "m.gguf", decoder_tensors(), metadata, **general)  # type: ignore[arg-type]
    assert open_checkpoint(str(path)).config["vocab_size"] == 3


def frequency_factors(theta: float, factor: float) -> np.ndarray:
    """Written from the published formula, as converters store it."""
    factors = []
    for index in range(HEAD_DIM // 2):
        wavelength = 2 * math.pi * theta ** (2 * index / HEAD_DIM)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_scaled_rope_is_recognised_by_its_stored_factors(tmp_path: Path, factor: float) -> None:
    extra = {"rope_freqs.weight": frequency_factors(500000.0, factor)}
    config = config_of(tmp_path, {**decoder_tensors(), **extra}, rope__freq_base=500000.0)
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_unknown_frequency_factors_are_kept_as_they_are(tmp_path: Path) -> None:
    factors = np.linspace(1, 3, HEAD_DIM // 2, dtype=np.float32)
    config = config_of(tmp_path, {**decoder_tensors(), "rope_freqs.weight": factors})
    scaling = config["rope_scaling"]
    assert (scaling["rope_type"], scaling["attention_factor"]) == ("longrope", 1.0)
    assert scaling["short_factor"] == scaling["long_factor"] == pytest.approx(factors.tolist())


def test_longrope_factors_come_from_their_tensors(tmp_path: Path) -> None:
    extra = {
        "rope_factors_short.weight": np.full(HEAD_DIM // 2, 1.5, dtype=np.float32),
        "rope_factors_long.weight": np.full(HEAD_DIM // 2, 4.0, dtype=np.float32),
    }
    config = config_of(
        tmp_path,
        {**decoder_tensors(), **extra},
        rope__scaling__original_context_length=64,
        rope__scaling__attn_factor=1.19,
    )
    assert config["original_max_position_embeddings"] == 64
    assert config["rope_scaling"] == {
        "rope_type": "longrope",
        "short_factor": [1.5] * (HEAD_DIM // 2),
        "long_factor": [4.0] * (HEAD_DIM // 2),
        "attention_factor": 1.19,
    }


def test_a_scaling_type_is_passed_on_by_name(tmp_path: Path) -> None:
    config = config_of(
        tmp_path, decoder_tensors(), rope__scaling__type="linear", rope__scaling__factor=2.0
    )
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_layers_that_differ_are_refused(tmp_path: Path) -> None:
    assert (
        config_of(tmp_path, decoder_tensors(), feed_forward_length=[96, 96])["intermediate_size"]
        == HIDDEN
    )
    with pytest.raises(CheckpointError, match="intermediate_size differ from layer to layer"):
        config_of(tmp_path, decoder_tensors(), feed_forward_length=[96, 48])


def test_a_file_that_is_no_decoder_says_what_it_lacks(tmp_path: Path) -> None:
    path = save(tmp_path / "m.gguf", decoder_tensors(), {"block_count": 2})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"lacks llama\.embedding_length"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("keep", [5, 20, 300, -1000, -4])
def test_a_truncated_file_is_found_before_anything_is_read(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "m.gguf", decoder_tensors())  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="is not a complete GGUF file"):
        open_checkpoint(str(path))


def test_a_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m-00001-of-00003.gguf", decoder_tensors())  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="one of 3 parts") as caught:
        open_checkpoint(str(path))
    assert "gguf-split --merge" in (caught.value.remedy or "")


def test_a_renamed_part_of_a_split_file_is_refused_too(tmp_path: Path) -> None:
    path = save(tmp_path / "m.gguf", decoder_tensors(), **{"split.count": 3})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="one of 3 parts"):
        open_checkpoint(str(path))
