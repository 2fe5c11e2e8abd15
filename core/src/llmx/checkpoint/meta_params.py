"""Meta's ``params.json``, and the older export tool's, under Hugging Face names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx.checkpoint.base import TensorInfo
from llmx.errors import CheckpointError

ADAPTER = "lora_args"
REQUIRED = ("dim", "n_layers", "n_heads")

RENAMED = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "rope_freq_base": "rope_theta",
    "partial_rotary_factor": "partial_rotary_factor",
    "max_position_embeddings": "max_position_embeddings",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "sliding_window": "sliding_window",
    "attention_qkv_bias": "qkv_bias",
    "use_qk_norm": "use_qk_norm",
    "qk_norm": "use_qk_norm",
}

USED_BELOW = (
    "multiple_of",
    "ffn_dim_multiplier",
    "use_scaled_rope",
    "rope_scale_factor",
    "high_freq_factor",
    "rope_high_freq_factor",
    "rope_scaling_short_factor",
    "rope_scaling_long_factor",
    "rope_scaling_attention_factor",
    "use_hf_rope",
    "qk_norm_before_rope",
)

ABOUT_RUNNING = (
    "max_batch_size",
    "max_seq_len",
    "max_context_len",
    "use_kv_cache",
    "use_sdpa_with_kv_cache_op",
    "enable_dynamic_shape",
    "generate_full_logits",
    "device",
    "bos_idx",
    "eos_idx",
    "bos_count",
    "eos_count",
    "model_architecture",
    "kv_io_bit_width",
    "quantization_args",
    ADAPTER,
)
"""Keys that do not describe the weights, or say what the weights say too."""

PLAIN = {
    "norm_type": "rmsnorm",
    "act_fn": "silu",
    "attention_type": "mha",
    "use_ffn_norm": True,
    "qk_norm_affine": True,
    "apply_embedding": True,
    "apply_output": True,
    "embedding_scale_factor": 1.0,
}
"""Keys that may be spelled out, as long as they ask for what this decoder does anyway."""


def is_meta_params(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the keys of ``params.json`` rather than of ``config.json``."""
    return "dim" in content


def config_from_meta(
    params: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> dict[str, Any]:
    """The same facts under the names of ``config.json``.

    ``hidden_dim`` is computed as the model code does if absent, ``vocab_size`` -1 is read off the
    embedding, and the head is tied if the tensors have none.
    """
    missing = [key for key in REQUIRED if not isinstance(params.get(key), int)]
    if missing:
        raise CheckpointError(
            f"params.json has no whole number for {', '.join(missing)}",
            remedy="Pass the right file with --params.",
        )
    known = {*RENAMED, *USED_BELOW, *ABOUT_RUNNING}
    unknown = [
        key
        for key, value in params.items()
        if key not in known and value and PLAIN.get(key) != value
    ]
    if unknown:
        raise CheckpointError(
            f"params.json says {', '.join(f'{key}={params[key]}' for key in unknown)}, "
            "which this decoder does not have",
            remedy="The model needs a family plugin of its own.",
        )
    config = {RENAMED[key]: value for key, value in params.items() if key in RENAMED}
    config = {key: value for key, value in config.items() if value is not None}
    config.setdefault("num_key_value_heads", params["n_heads"])
    config.setdefault("head_dim", params["dim"] // params["n_heads"])
    config.setdefault("intermediate_size", _hidden_dim(params))
    if config.get("vocab_size", -1) < 0:
        config["vocab_size"] = tensors["tok_embeddings.weight"].shape[0]
    config["tie_word_embeddings"] = "output.weight" not in tensors
    if config.get("use_qk_norm") and not params.get("qk_norm_before_rope"):
        raise CheckpointError(
            "params.json asks for qk-norm after rope (qk_norm_before_rope is not true)",
            remedy="The model needs a family plugin of its own.",
        )
    if params.get(ADAPTER):
        config[ADAPTER] = params[ADAPTER]
    scaling = _rope_scaling(params)
    if scaling:
        config["rope_scaling"] = scaling
    return config


def _hidden_dim(params: Mapping[str, Any]) -> int:
    """Two thirds of ``4 * dim``, times the multiplier, rounded up to ``multiple_of``."""
    width = int(2 * 4 * params["dim"] / 3)
    multiplier = params.get("ffn_dim_multiplier")
    if multiplier is not None:
        width = int(multiplier * width)
    multiple = params.get("multiple_of") or 256
    return -(-width // multiple) * multiple


def _rope_scaling(params: Mapping[str, Any]) -> dict[str, Any] | None:
    if params.get("use_scaled_rope"):
        # The files of the publishers leave the factor out; the families know theirs.
        stated = params.get("rope_scale_factor")
        return {
            "rope_type": "llama3",
            **({} if stated is None else {"factor": float(stated)}),
            "low_freq_factor": 1.0,
            "high_freq_factor": float(
                params.get("high_freq_factor", params.get("rope_high_freq_factor", 4))
            ),
            "original_max_position_embeddings": 8192,
        }
    if params.get("rope_scaling_short_factor"):
        scaling = {
            "rope_type": "longrope",
            "short_factor": params["rope_scaling_short_factor"],
            "long_factor": params["rope_scaling_long_factor"],
        }
        if params.get("rope_scaling_attention_factor") is not None:
            scaling["attention_factor"] = params["rope_scaling_attention_factor"]
        return scaling
    return None
