"""GGUF metadata under the names of Hugging Face's ``config.json`` and its neighbours.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmx.checkpoint.base import TensorInfo
from llmx.errors import CheckpointError

RENAMED = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
    "expert_count": "num_local_experts",
}
REQUIRED = ("embedding_length", "block_count", "feed_forward_length", "attention.head_count")
ROPE_NUMBERS = ("rope.dimension_count", "rope.scaling.factor", "rope.scaling.attn_factor")

PUBLISHED_ORIGINAL_CONTEXT = 8192
PUBLISHED_LOW_FREQ, PUBLISHED_HIGH_FREQ = 1.0, 4.0

END_TOKEN_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
DEFAULT_ROPE_THETA = 10000.0


def config_from_metadata(
    source: str,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    rope_factors: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The model's parameters; what the header leaves out is read off the tensors.

    Args:
        rope_factors: contents of the tensors that scale rotary frequencies, by tensor name.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise CheckpointError(
            f"{source} does not say its architecture (general.architecture)",
            remedy="Only GGUF files of language models can be exported.",
        )
    prefix = f"{architecture}."
    own = {
        key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)
    }
    missing = [prefix + key for key in REQUIRED if not own.get(key)]
    if missing:
        raise CheckpointError(
            f"{source}: the header lacks {', '.join(missing)}",
            remedy="Only GGUF files of decoder-only language models can be exported.",
        )
    odd = [prefix + key for key in (*RENAMED, *ROPE_NUMBERS) if not _is_numeric(own.get(key, 0))]
    if odd:
        raise CheckpointError(
            f"{source}: the header gives no number for {', '.join(odd)}",
            remedy="Fetch the file again: it is damaged.",
        )
    # Converters write 0 for what a model does not have, such as experts.
    config = {RENAMED[key]: _tidy(value) for key, value in own.items() if key in RENAMED and value}
    config["model_type"] = architecture
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    uneven = [key for key, value in config.items() if isinstance(value, list)]
    if uneven:
        raise CheckpointError(
            f"{source}: {', '.join(uneven)} differ from layer to layer, which is not supported",
            remedy="The model needs a family plugin of its own.",
        )
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if config["head_dim"] < 1:
        raise CheckpointError(
            f"{source}: {config['num_attention_heads']} heads do not fit into "
            f"{config['hidden_size']} features",
            remedy="Fetch the file again: it is damaged.",
        )
    config.setdefault("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    config["tie_word_embeddings"] = "output.weight" not in tensors
    has_output_bias = "blk.0.attn_output.bias" in tensors
    config["attention_bias"] = has_output_bias
    config["qkv_bias"] = "blk.0.attn_q.bias" in tensors or "blk.0.attn_qkv.bias" in tensors
    config["mlp_bias"] = "blk.0.ffn_down.bias" in tensors
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in tensors
    rotary_dim = own.get("rope.dimension_count", config["head_dim"])
    if rotary_dim != config["head_dim"]:
        config["partial_rotary_factor"] = rotary_dim / config["head_dim"]
    config.update(_rope_scaling(own, rotary_dim, config, rope_factors))
    return config


def generation_config_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """``bos_token_id`` and all ids that end a text, a turn or a message."""
    ids = [metadata.get(f"tokenizer.ggml.{key}") for key in END_TOKEN_KEYS]
    config: dict[str, Any] = {}
    ends = list(dict.fromkeys(token for token in ids if token is not None))
    if ends:
        config["eos_token_id"] = ends
    if "tokenizer.ggml.bos_token_id" in metadata:
        config["bos_token_id"] = metadata["tokenizer.ggml.bos_token_id"]
    return config


def tokenizer_config_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The chat template, and whether texts start with the bos token."""
    config: dict[str, Any] = {}
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata["tokenizer.chat_template"]
    if "tokenizer.ggml.add_bos_token" in metadata:
        config["add_bos_token"] = metadata["tokenizer.ggml.add_bos_token"]
    return config


def _is_numeric(value: Any) -> bool:
    """A number, or one for each layer."""
    return all(
        isinstance(item, int | float) for item in (value if isinstance(value, list) else [value])
    )


def _tidy(value: Any) -> Any:
    """Undo fp32 rounding of decimals such as 1e-5, and one value repeated for every layer."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list) and len(set(value)) == 1:
        return value[0]
    return value


def _rope_scaling(
    own: Mapping[str, Any],
    rotary_dim: int,
    config: Mapping[str, Any],
    factors: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    if "rope_factors_long.weight" in factors:
        scaling = {
            "rope_type": "longrope",
            "short_factor": list(factors["rope_factors_short.weight"]),
            "long_factor": list(factors["rope_factors_long.weight"]),
        }
        if "rope.scaling.attn_factor" in own:
            scaling["attention_factor"] = _tidy(own["rope.scaling.attn_factor"])
        original = own.get("rope.scaling.original_context_length", own.get("context_length"))
        return {"rope_scaling": scaling, "original_max_position_embeddings": original}
    if "rope_freqs.weight" in factors:
        theta = config.get("rope_theta", DEFAULT_ROPE_THETA)
        return _from_frequency_factors(factors["rope_freqs.weight"], theta, rotary_dim, own)
    kind = own.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    return {"rope_scaling": {"rope_type": kind, "factor": own.get("rope.scaling.factor", 1.0)}}


def _from_frequency_factors(
    stored: Sequence[float], theta: float, rotary_dim: int, own: Mapping[str, Any]
) -> dict[str, Any]:
    """GGUF keeps only the divisor of each frequency, not the rule that it came from.

    Divisors of the published rule are given under its name; any others as a longrope whose two
    lists are the same, which divides the frequencies in the same way.
    """
    factor = max(stored)
    published = [
        _published_divisor(theta ** (-2 * index / rotary_dim), factor)
        for index in range(rotary_dim // 2)
    ]
    if len(published) == len(stored) and all(
        math.isclose(ours, theirs, rel_tol=1e-4)
        for ours, theirs in zip(published, stored, strict=True)
    ):
        rule = {
            "rope_type": "llama3",
            "factor": _tidy(float(factor)),
            "low_freq_factor": PUBLISHED_LOW_FREQ,
            "high_freq_factor": PUBLISHED_HIGH_FREQ,
            "original_max_position_embeddings": PUBLISHED_ORIGINAL_CONTEXT,
        }
        return {"rope_scaling": rule}
    scaling = {
        "rope_type": "longrope",
        "short_factor": list(stored),
        "long_factor": list(stored),
        "attention_factor": 1.0,
    }
    original = own.get("context_length")
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}


def _published_divisor(frequency: float, factor: float) -> float:
    """By what ``rope_type: llama3`` divides a rotary frequency (radians per token)."""
    turns = PUBLISHED_ORIGINAL_CONTEXT * frequency / (2 * math.pi)
    if turns < PUBLISHED_LOW_FREQ:
        return factor
    if turns > PUBLISHED_HIGH_FREQ:
        return 1.0
    smooth = (turns - PUBLISHED_LOW_FREQ) / (PUBLISHED_HIGH_FREQ - PUBLISHED_LOW_FREQ)
    return 1 / ((1 - smooth) / factor + smooth)
