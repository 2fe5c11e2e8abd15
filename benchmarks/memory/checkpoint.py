"""Random bf16 checkpoints in the shape of published models, one file for each layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llmx import DecoderParams

SPREAD = 0.02
"""Standard deviation of weights, about that of trained models."""


def write_checkpoint(params: DecoderParams, folder: Path) -> Path:
    """Write a Llama's ``config.json`` and weights to ``folder``, unless a whole one is there.

    Never more than one layer is held in memory.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(_shards(params)):
        name = f"model-{number:05}.safetensors"
        tensors = {key: _weight(shape, generator) for key, shape in shapes.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
        total += sum(each.nbytes for each in tensors.values())
    (folder / "config.json").write_text(json.dumps(_config(params), indent=2), encoding="utf-8")
    described = {"metadata": {"total_size": total}, "weight_map": places}
    index.write_text(json.dumps(described), encoding="utf-8")
    return folder


def _shards(params: DecoderParams) -> Iterator[Mapping[str, tuple[int, ...]]]:
    width, table = params.dim, (params.vocab_size, params.dim)
    queries, keys = params.n_heads * params.head_dim, params.n_kv_heads * params.head_dim
    ends = {"model.embed_tokens.weight": table, "model.norm.weight": (width,)}
    if not params.tied_embeddings:
        ends["lm_head.weight"] = table
    yield ends
    for layer in range(params.n_layers):
        shapes = {
            "input_layernorm": (width,),
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "post_attention_layernorm": (width,),
            "mlp.gate_proj": (params.hidden_dim, width),
            "mlp.up_proj": (params.hidden_dim, width),
            "mlp.down_proj": (width, params.hidden_dim),
        }
        yield {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}


def _weight(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, SPREAD, generator=generator)


def _config(params: DecoderParams) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "hidden_size": params.dim,
        "num_hidden_layers": params.n_layers,
        "num_attention_heads": params.n_heads,
        "num_key_value_heads": params.n_kv_heads,
        "head_dim": params.head_dim,
        "intermediate_size": params.hidden_dim,
        "vocab_size": params.vocab_size,
        "rms_norm_eps": params.norm_eps,
        "rope_theta": params.rope_theta,
        "max_position_embeddings": params.max_position,
        "tie_word_embeddings": params.tied_embeddings,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }
