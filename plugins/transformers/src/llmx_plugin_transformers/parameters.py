"""From ``config.json`` to what llmx has to know of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from attrs import frozen

from llmx import CheckpointError, DecoderParams

FULL, SLIDING = "full_attention", "sliding_attention"
NOT_TEXT = ("vision_config", "audio_config")
LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
REMEDY = "a plugin for this model's own family can supply build_model"


@frozen(kw_only=True)
class TransformersParams(DecoderParams):
    """Parameters of a model of ``transformers``; ``config`` is its ``config.json``."""

    config: str
    parameters: int

    @property
    def parameter_count(self) -> int:
        return self.parameters


@lru_cache(maxsize=4)
def read_params(config_json: str) -> TransformersParams:
    """Build the model without weights and look at it.

    Raises:
        CheckpointError: it is no causal language model, or a part of it stands in the way.
    """
    from llmx_plugin_transformers.building import build_to_probe, windows_of_layers

    config = read_config(config_json)
    model, anatomy = build_to_probe(config)
    first = anatomy.attention[0]
    windows = windows_of_layers(config, anatomy)
    widths = {each for each in windows if each is not None}
    if len(widths) > 1:
        raise CheckpointError(
            f"its layers have windows of {', '.join(map(str, sorted(widths)))} tokens",
            remedy=REMEDY,
        )
    tied = config.tie_word_embeddings and bool(getattr(model, "_tied_weights_keys", None))
    return TransformersParams(
        dim=model.get_submodule(anatomy.embedding).embedding_dim,
        n_layers=len(anatomy.attention),
        n_heads=first.n_heads,
        n_kv_heads=first.n_kv_heads,
        head_dim=first.key_dim,
        hidden_dim=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocab_size=config.vocab_size,
        max_position=_limit(config),
        rotary_dim=first.key_dim - first.key_dim % 2,
        tied_embeddings=tied,
        sliding_window=next(iter(widths), None),
        windowed_layers=tuple(each is not None for each in windows),
        config=config_json,
        parameters=sum(each.numel() for each in {*model.parameters()}),
    )


def read_config(config_json: str) -> Any:
    """The ``PreTrainedConfig`` for fields of ``config.json``, of code that is installed only."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    fields: Mapping[str, Any] = json.loads(config_json)
    fields = {name: value for name, value in fields.items() if name != "model_type"}
    kind = json.loads(config_json).get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        import transformers

        raise CheckpointError(
            f"transformers {transformers.__version__} has no causal language model {kind!r}",
            remedy="see whether a newer version of llmx-plugin-transformers has it",
        )
    # What was stored quantized is expanded by llmx's own readers.
    fields = {name: value for name, value in fields.items() if name != "quantization_config"}
    try:
        config = AutoConfig.for_model(kind, **fields)
    except Exception as error:
        raise CheckpointError(
            f"transformers refuses the configuration: {str(error).splitlines()[0]}",
            remedy="correct config.json, or give another one with --params",
        ) from error
    if config.is_encoder_decoder:
        raise CheckpointError(f"a {kind} model has an encoder", remedy="export its decoder alone")
    for part in NOT_TEXT:
        if getattr(config, part, None) is not None:
            raise CheckpointError(
                f"a {kind} model reads more than text: its configuration has {part}",
                remedy="save its language model alone and export that",
            )
    if getattr(config, "alibi", False):
        raise CheckpointError(
            "its attention has biases by distance (ALiBi), for which llmx has no cache",
            remedy=REMEDY,
        )
    return config


def _limit(config: Any) -> int:
    for name in LIMITS:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise CheckpointError(
        f"the configuration does not say how long a text may be ({', '.join(LIMITS)})",
        remedy="add one of these to a copy of config.json and give that one with --params",
    )
