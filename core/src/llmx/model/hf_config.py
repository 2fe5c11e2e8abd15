"""Decoder parameters from the fields of a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmx.errors import CheckpointError
from llmx.model.params import (
    DecoderParams,
    FrequencyRope,
    LinearRope,
    LongRope,
    PlainRope,
    RopeScaling,
)

FULL, SLIDING = "full_attention", "sliding_attention"

# Fields that change what a model computes, with the values that leave the decoder as it is.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", None),
    "hidden_activation": ("silu", None),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (1, None),
    "final_logit_softcapping": (None,),
    "logit_scale": (1, None),
    "logits_scaling": (1, None),
    "no_rope_layers": (None, [], ()),
    "num_experts": (0, 1, None),
    "num_local_experts": (0, 1, None),
    "parallel_attn": (False, None),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (1, None),
    "use_parallel_residual": (False, None),
}


def decoder_params(
    config: Mapping[str, Any],
    *,
    qkv_bias: bool | None = None,
    qk_norm: bool | None = None,
) -> DecoderParams:
    """Parameters of the core decoder from ``config.json`` fields.

    Args:
        config: the file's fields; GGUF and Meta headers are translated to the same names.
        qkv_bias: for families whose attention has biases that the config does not mention.
        qk_norm: for families that normalise q and k per head without saying so.

    Raises:
        CheckpointError: a field is missing, or says something that the decoder does not do.
    """
    _refuse_unsupported(config)
    dim, n_heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    head_dim = config.get("head_dim") or dim // n_heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    max_position = _integer(config, "max_position_embeddings")
    attention_bias = bool(config.get("attention_bias", False))
    return DecoderParams(
        dim=dim,
        n_layers=_integer(config, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=config.get("num_key_value_heads") or n_heads,
        head_dim=head_dim,
        hidden_dim=_integer(config, "intermediate_size"),
        vocab_size=_integer(config, "vocab_size"),
        max_position=max_position,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(rope, config),
        rotary_dim=int(head_dim * partial),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bool(config.get("qkv_bias", attention_bias)) if qkv_bias is None else qkv_bias,
        output_bias=attention_bias and qkv_bias is None,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=bool(config.get("use_qk_norm", False)) if qk_norm is None else qk_norm,
        **_windows(config),
    )


def _integer(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(
            f"the checkpoint's configuration has no usable {key} (found {value!r})",
            remedy="point to a checkpoint with its config.json, or give --params FILE",
        )
    return value


def _rope_scaling(rope: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    original = rope.get("original_max_position_embeddings") or config.get(
        "original_max_position_embeddings"
    )
    try:
        match kind:
            case "default":
                return PlainRope()
            case "linear":
                return LinearRope(float(rope["factor"]))
            case "llama3":
                return FrequencyRope(
                    factor=float(rope["factor"]),
                    low_freq_factor=float(rope["low_freq_factor"]),
                    high_freq_factor=float(rope["high_freq_factor"]),
                    original_max_position=int(original or 0),
                )
            case "longrope" | "su":
                _refuse_magnitudes(rope)
                return LongRope(
                    short_factor=tuple(rope["short_factor"]),
                    long_factor=tuple(rope["long_factor"]),
                    original_max_position=int(original or config["max_position_embeddings"]),
                    attention_factor=rope.get("attention_factor"),
                )
    except KeyError as error:
        raise CheckpointError(
            f"rope scaling {kind!r} has no field {error}",
            remedy="complete it in a copy of the file and give that one with --params",
        ) from None
    raise CheckpointError(
        f"rope scaling {kind!r} is not supported",
        remedy="supported are default, linear, llama3 and longrope",
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    for key, neutral in NEUTRAL.items():
        if key in config and config[key] not in neutral:
            raise CheckpointError(
                f"the checkpoint's configuration has {key}={config[key]!r}, "
                "which the decoder does not do",
                remedy="a plugin of this model's own family can supply build_model",
            )
    other = set(config.get("layer_types") or ()) - {FULL, SLIDING}
    if other:
        raise CheckpointError(
            f"the checkpoint's layer_types has {', '.join(sorted(other))}, "
            "which the decoder does not have",
            remedy="a plugin of this model's own family can supply build_model",
        )


def _windows(config: Mapping[str, Any]) -> dict[str, Any]:
    """The window in tokens and the layers that have it, if it is shorter than the context."""
    window = config.get("sliding_window")
    if not window or not config.get("use_sliding_window", True):
        return {}
    layer_types = config.get("layer_types")
    if layer_types:
        windowed = tuple(each == SLIDING for each in layer_types)
    else:
        # Layers from max_window_layers on have the window; without that field all of them.
        first = config.get("max_window_layers") or 0
        windowed = tuple(layer >= first for layer in range(config["num_hidden_layers"]))
    if not any(windowed) or window >= config["max_position_embeddings"]:
        return {}
    return {
        "sliding_window": int(window),
        "windowed_layers": (True,) if all(windowed) else windowed,
    }


def _refuse_magnitudes(rope: Mapping[str, Any]) -> None:
    found = [key for key in ("short_mscale", "long_mscale") if rope.get(key) is not None]
    if found:
        raise CheckpointError(
            f"rope scaling has {' and '.join(found)}, which the decoder does not do",
            remedy="a plugin of this model's own family can supply build_model",
        )
