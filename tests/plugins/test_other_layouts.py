"""Meta's and GGUF's files of one model compute what its Hugging Face folder computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import gguf
import pytest
import torch
from torch import Tensor

from llmx.model.params import DecoderParams, LongRope
from llmx.plugins import load
from llmx.testing.eager import load_eager, logits
from llmx.testing.reference import hf_fields, random_model, shrink

TOKENS = torch.randint(320, (1, 60), generator=torch.Generator().manual_seed(0))
META = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
}
GGUF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


def tiny(family: str, size: str) -> DecoderParams:
    return shrink(load(family, None).family.default_params(size=size))


def interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Rows as llama.cpp and Meta store them: the two halves of each head take turns."""
    halves = weight.view(n_heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def renamed(
    model: Any, names: Mapping[str, str], params: DecoderParams, *, interleave: bool
) -> dict[str, Tensor]:
    """The parameters of a model under other names."""
    found = {}
    for name, parameter in model.named_parameters():
        tensor = parameter.detach()
        if interleave and ".q_proj." in name:
            tensor = interleaved(tensor, params.n_heads)
        if interleave and ".k_proj." in name:
            tensor = interleaved(tensor, params.n_kv_heads)
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


def assert_equal(
    family: str, source: Path, model: Any, *, default_max_position: int | None = None
) -> DecoderParams:
    """The checkpoint's logits are the model's; its parameters come back."""
    loaded = load_eager(
        load(family, None).family,
        source,
        max_context_length=64,
        default_max_position=default_max_position,
    )
    with torch.no_grad():
        expected = model(TOKENS).logits[0]
    torch.testing.assert_close(
        logits(loaded.model, TOKENS, [40, 20]), expected, atol=1e-4, rtol=1e-4
    )
    return loaded.params


def meta_params(params: DecoderParams, **extra: Any) -> str:
    multiplier = params.hidden_dim / int(8 * params.dim / 3) + 1e-6
    return json.dumps(
        {
            "dim": params.dim,
            "n_layers": params.n_layers,
            "n_heads": params.n_heads,
            "n_kv_heads": params.n_kv_heads,
            "vocab_size": params.vocab_size,
            "norm_eps": params.norm_eps,
            "rope_theta": params.rope_theta,
            "multiple_of": 8,
            "ffn_dim_multiplier": multiplier,
            **extra,
        }
    )


@pytest.mark.parametrize(
    ("family", "size", "extra"),
    [
        ("llama2", "7b", {}),
        ("llama3", "8b", {}),
        # Meta's files do not say by how much the rope is scaled: 8 for 3.1, 32 for 3.2.
        ("llama3_1", "8b", {"use_scaled_rope": True}),
        ("llama3_2", "1b", {"use_scaled_rope": True}),
    ],
)
@pytest.mark.parametrize("n_files", [1, 2])
def test_metas_files(
    tmp_path: Path, family: str, size: str, extra: dict[str, Any], n_files: int
) -> None:
    params = tiny(family, size)
    model = random_model("llama", hf_fields(params))
    tensors = renamed(model, META, params, interleave=True)
    if params.tied_embeddings:
        # Meta stores the head even where it is the embedding.
        tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()
    for index in range(n_files):
        piece = {name: cut(name, tensor, n_files, index) for name, tensor in tensors.items()}
        torch.save(piece, tmp_path / f"consolidated.{index:02}.pth")
    (tmp_path / "params.json").write_text(meta_params(params, **extra))
    found = assert_equal(family, tmp_path, model, default_max_position=params.max_position)
    assert attrs.evolve(found, tied_embeddings=params.tied_embeddings) == params


def cut(name: str, tensor: Tensor, n_files: int, index: int) -> Tensor:
    """A model-parallel piece: by inputs for wo, w2, by outputs for other matrices."""
    if tensor.ndim == 1:
        return tensor
    dimension = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
    return tensor.chunk(n_files, dim=dimension)[index].clone()


OLDER = {
    **META,
    "self_attn.q_norm": "attention.q_norm_fn",
    "self_attn.k_norm": "attention.k_norm_fn",
}


@pytest.mark.parametrize(
    ("family", "size", "model_type", "extra"),
    [
        ("smollm2", "135m", "llama", {}),
        ("qwen2_5", "0.5b", "qwen2", {"attention_qkv_bias": True}),
        ("qwen3", "0.6b", "qwen3", {"use_qk_norm": True, "qk_norm_before_rope": True}),
        ("phi_4_mini", "3.8b", "phi3", {"partial_rotary_factor": 0.75}),
    ],
)
def test_files_of_the_older_export_tool(
    tmp_path: Path, family: str, size: str, model_type: str, extra: dict[str, Any]
) -> None:
    params = tiny(family, size)
    if isinstance(params.rope_scaling, LongRope):
        extra = {
            **extra,
            "rope_scaling_short_factor": list(params.rope_scaling.short_factor),
            "rope_scaling_long_factor": list(params.rope_scaling.long_factor),
            "original_max_position_embeddings": params.rope_scaling.original_max_position,
        }
    model = random_model(model_type, hf_fields(params))
    tensors = unfused(renamed(model, OLDER, params, interleave=False), params)
    torch.save(tensors, tmp_path / "model.pth")
    wide = {"head_dim": params.head_dim, "hidden_dim": params.hidden_dim, "use_hf_rope": True}
    (tmp_path / "params.json").write_text(meta_params(params, **wide, **extra))
    found = assert_equal(family, tmp_path, model, default_max_position=params.max_position)
    assert found == params


def unfused(tensors: dict[str, Tensor], params: DecoderParams) -> dict[str, Tensor]:
    """With projections that are fused in the Hugging Face model taken apart."""
    found = {}
    widths = [each * params.head_dim for each in (params.n_heads, *[params.n_kv_heads] * 2)]
    for name, tensor in tensors.items():
        if "qkv_proj" in name:
            for part, new in zip(tensor.split(widths), ("wq", "wk", "wv"), strict=True):
                found[name.replace("self_attn.qkv_proj", f"attention.{new}")] = part.clone()
        elif "gate_up_proj" in name:
            for part, new in zip(tensor.chunk(2), ("w1", "w3"), strict=True):
                found[name.replace("mlp.gate_up_proj", f"feed_forward.{new}")] = part.clone()
        else:
            found[name] = tensor
    return found


@pytest.mark.parametrize("tied_as", ["stored", "omitted"])
def test_a_tied_head_may_be_stored_or_not(tmp_path: Path, tied_as: str) -> None:
    from safetensors.torch import save_file

    params = tiny("qwen3", "0.6b")
    model = random_model("qwen3", hf_fields(params))
    tensors = {name: each.detach().clone() for name, each in model.named_parameters()}
    if tied_as == "stored":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "qwen3", **hf_fields(params)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert assert_equal("qwen3", tmp_path, model) == params


def write_gguf(path: Path, architecture: str, params: DecoderParams, tensors: Any) -> None:
    """As llama.cpp's converter writes a model of that architecture, in fp32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(params.n_layers)
    writer.add_context_length(params.max_position)
    writer.add_embedding_length(params.dim)
    writer.add_feed_forward_length(params.hidden_dim)
    writer.add_head_count(params.n_heads)
    writer.add_head_count_kv(params.n_kv_heads)
    writer.add_key_length(params.head_dim)
    writer.add_layer_norm_rms_eps(params.norm_eps)
    writer.add_rope_freq_base(params.rope_theta)
    writer.add_rope_dimension_count(params.rotary_dim)
    writer.add_vocab_size(params.vocab_size)
    if isinstance(params.rope_scaling, LongRope):
        scaling = params.rope_scaling
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_position)
        for name in ("short", "long"):
            factors = torch.tensor(getattr(scaling, f"{name}_factor"))
            writer.add_tensor(f"rope_factors_{name}.weight", factors.numpy())
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("family", "size", "model_type", "interleave"),
    [
        ("llama2", "7b", "llama", True),
        ("llama3", "8b", "llama", True),
        ("smollm2", "135m", "llama", True),
        ("qwen2_5", "0.5b", "qwen2", False),
        ("qwen2_5", "7b", "qwen2", False),
        ("qwen3", "0.6b", "qwen3", False),
        ("qwen3", "8b", "qwen3", False),
        ("phi_3_5", "mini", "phi3", False),
        ("phi_4_mini", "3.8b", "phi3", False),
    ],
)
def test_gguf_files(
    tmp_path: Path, family: str, size: str, model_type: str, interleave: bool
) -> None:
    params = tiny(family, size)
    model = random_model(model_type, hf_fields(params))
    path = tmp_path / "model.gguf"
    write_gguf(path, model_type, params, renamed(model, GGUF, params, interleave=interleave))
    found = assert_equal(family, path, model)
    # Rope factors are stored in fp32.
    assert attrs.evolve(found, rope_scaling=params.rope_scaling) == params
