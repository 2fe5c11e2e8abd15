"""One set of weights in the forms that the tools under comparison read.

A Hugging Face folder (bf16 safetensors, ``config.json``, ``tokenizer.json``) for llmx and
optimum-executorch, and Meta's form (``consolidated.00.pth``, ``params.json``) for ``export_llm``.
The values are the same bf16 numbers in both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llmx.checkpoint import Checkpoint, apply, open_checkpoint, plan
from llmx.checkpoint.weight_map import WeightMap
from llmx.plugins import load

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))

from fetch_smollm2 import fetch

HF_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
    "feed_forward.down_proj": "mlp.down_proj",
}
META_LAYER = {
    "attention_norm": "attention_norm",
    "attention.q_proj": "attention.wq",
    "attention.k_proj": "attention.wk",
    "attention.v_proj": "attention.wv",
    "attention.o_proj": "attention.wo",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate_proj": "feed_forward.w1",
    "feed_forward.up_proj": "feed_forward.w3",
    "feed_forward.down_proj": "feed_forward.w2",
}


def prepare(folder: Path, n_layers: int | None) -> Path:
    """Write both forms below ``folder`` unless they are there; the first layers only, if asked."""
    done = folder / "ready"
    if done.exists():
        return folder
    checkpoint = open_checkpoint(str(fetch()))
    tensors = read_tensors(checkpoint)
    config = dict(checkpoint.config)
    config["num_hidden_layers"] = n_layers or config["num_hidden_layers"]
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if layer_of(name) is None or layer_of(name) < config["num_hidden_layers"]
    }
    write_hugging_face(folder / "hf", kept, config, checkpoint)
    write_meta(folder / "meta", kept, config)
    done.touch()
    return folder


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every weight as bf16 under its llmx name, rotary pairs in halves."""
    family = load("smollm2", None).family
    params = family.params_from_hf(config=checkpoint.config)
    weight_map = family.convert_weights(checkpoint=checkpoint, params=params)
    assert isinstance(weight_map, WeightMap)
    expected = {}
    for source, info in checkpoint.tensors.items():
        for target in weight_map.find(source) or ():
            name = target if isinstance(target, str) else target.name
            expected[name] = info.shape
    steps = plan(weight_map, checkpoint, expected)
    return {name: tensor.to(torch.bfloat16) for name, tensor in apply(steps, checkpoint)}


def layer_of(name: str) -> Any:
    """Number of the layer that a tensor belongs to, ``None`` for those outside layers."""
    first, *rest = name.split(".")
    return int(rest[0]) if first == "layers" else None


def renamed(name: str, in_layer: dict[str, str], outside: dict[str, str], prefix: str) -> str:
    """``name`` in another convention."""
    number = layer_of(name)
    if number is None:
        return outside[name]
    module = name.removeprefix(f"layers.{number}.").removesuffix(".weight")
    return f"{prefix}layers.{number}.{in_layer[module]}.weight"


def write_hugging_face(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], checkpoint: Checkpoint
) -> None:
    """``model.safetensors`` with what belongs to it."""
    from llmx.checkpoint import save_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    outside = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
    named = {
        renamed(name, HF_LAYER, outside, "model."): tensor.contiguous()
        for name, tensor in tensors.items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **config,
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    family = load("smollm2", None).family
    save_tokenizer(checkpoint, folder, sections=lambda name: family.gguf_tokenizer(name=name))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **checkpoint.tokenizer_config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def write_meta(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """``consolidated.00.pth`` and ``params.json``; rotary pairs as neighbours, head spelled out."""
    folder.mkdir(parents=True, exist_ok=True)
    outside = {"embedding.weight": "tok_embeddings.weight", "norm.weight": "norm.weight"}
    heads = {
        "attention.q_proj": config["num_attention_heads"],
        "attention.k_proj": config["num_key_value_heads"],
    }
    named = {}
    for name, tensor in tensors.items():
        for module, count in heads.items():
            if f".{module}." in name:
                tensor = pairs_as_neighbours(tensor, count)
        named[renamed(name, META_LAYER, outside, "")] = tensor.contiguous()
    named["output.weight"] = named["tok_embeddings.weight"].clone()
    torch.save(named, folder / "consolidated.00.pth")
    params = {
        "dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "n_layers": config["num_hidden_layers"],
        "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"],
        "vocab_size": config["vocab_size"],
        "ffn_dim_multiplier": 1,
        "use_scaled_rope": False,
        "use_hf_rope": False,
    }
    (folder / "params.json").write_text(json.dumps(params, indent=2))


def pairs_as_neighbours(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (0, 1, …, half, half+1, …) of each head to (0, half, 1, half+1, …)."""
    heads = weight.view(n_heads, 2, -1, weight.shape[-1])
    return heads.transpose(1, 2).reshape(weight.shape)
