"""Reference models: tiny likenesses built by ``transformers`` and saved as on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from llmx.model.params import DecoderParams, FrequencyRope, LinearRope, LongRope, RopeScaling

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 320  # the 256 bytes and some special tokens
WIDTH = 64
N_LAYERS = 3
WINDOW = 16
SHARD_BYTES = 100_000
# The defaults of model types are ids of their full vocabularies.
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def shrink(params: DecoderParams, *, n_layers: int = N_LAYERS) -> DecoderParams:
    """A tiny model with the peculiarities of ``params``.

    Kept are the ratio of query to key/value heads, whether the heads together are as wide as the
    model, the rotated part of a head, the rope and its scaling, biases, norms and a tied head.
    Scaling lists are thinned out to the tiny number of frequencies. A sliding window becomes one
    of 16 tokens, in every other layer if not in all.
    """
    n_kv_heads = min(2, params.n_kv_heads)
    ratio = params.n_heads // params.n_kv_heads
    # Four heads of ratio 1 rather than two: an order of heads that is wrong shows better.
    n_heads, n_kv_heads = (4, 4) if ratio == 1 else (ratio * n_kv_heads, n_kv_heads)
    head_dim = 16 if n_heads <= 16 else 8
    spans_dim = params.n_heads * params.head_dim == params.dim
    rotary_dim = head_dim * params.rotary_dim // params.head_dim
    everywhere = all(params.windowed_layers)
    return attrs.evolve(
        params,
        dim=n_heads * head_dim if spans_dim else WIDTH,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        hidden_dim=WIDTH + 32,
        vocab_size=VOCABULARY,
        sliding_window=params.sliding_window and WINDOW,
        windowed_layers=(True,) if everywhere else tuple(i % 2 == 1 for i in range(n_layers)),
        rope_scaling=_thinned(params.rope_scaling, rotary_dim // 2),
    )


def hf_fields(params: DecoderParams) -> dict[str, Any]:
    """The fields of ``config.json`` that say what ``params`` says, without ``model_type``."""
    rope: dict[str, Any] = {"rope_theta": params.rope_theta, "rope_type": "default"}
    if params.rotary_dim != params.head_dim:
        rope["partial_rotary_factor"] = params.rotary_dim / params.head_dim
    fields: dict[str, Any] = {
        "hidden_size": params.dim,
        "num_hidden_layers": params.n_layers,
        "num_attention_heads": params.n_heads,
        "num_key_value_heads": params.n_kv_heads,
        "head_dim": params.head_dim,
        "intermediate_size": params.hidden_dim,
        "vocab_size": params.vocab_size,
        "max_position_embeddings": params.max_position,
        "rms_norm_eps": params.norm_eps,
        "tie_word_embeddings": params.tied_embeddings,
        "attention_bias": params.output_bias,
        "mlp_bias": params.mlp_bias,
        "sliding_window": params.sliding_window,
    }
    if not all(params.windowed_layers):
        fields["layer_types"] = [
            "full_attention" if params.layer_window(layer) is None else "sliding_attention"
            for layer in range(params.n_layers)
        ]
    match params.rope_scaling:
        case FrequencyRope() as scaling:
            rope |= {"rope_type": "llama3", **_scaling_fields(scaling)}
        case LinearRope(factor=factor):
            rope |= {"rope_type": "linear", "factor": factor}
        case LongRope() as scaling:
            rope |= {"rope_type": "longrope", **_scaling_fields(scaling)}
            fields["original_max_position_embeddings"] = scaling.original_max_position
    return {**fields, "rope_parameters": rope}


def random_model(model_type: str, fields: Mapping[str, Any]) -> nn.Module:
    """A model of ``transformers`` whose every parameter has a say in its logits.

    Args:
        model_type: as in ``config.json``.
        fields: of its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # Weights as small as those of fresh models would make attention uniform, whatever the rope;
    # much larger ones would amplify rounding.
    fields = {**NO_TOKENS, "initializer_range": 0.1, **fields}
    config = AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            # Fresh norms are 1 and biases 0: one that is swapped or forgotten would not show.
            centre = 1.0 if "norm" in name else 0.0
            torch.nn.init.normal_(parameter, mean=centre, std=0.3)
    return model


def meta_model(model_type: str, fields: Mapping[str, Any]) -> nn.Module:
    """A model of full size without memory for its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **fields)
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def save_checkpoint(model: Any, folder: Path, *, eos: Sequence[int], bos: int | None) -> None:
    """Write what a repository on the hub holds: shards, configurations and a tokenizer.

    Args:
        eos: ids in ``generation_config.json``; ``bos`` likewise.
    """
    model.generation_config.eos_token_id = list(eos)
    model.generation_config.bos_token_id = bos
    model.generation_config.pad_token_id = None
    model.save_pretrained(folder, max_shard_size=SHARD_BYTES)
    write_tokenizer(folder, special=[f"<|{index}|>" for index in range(256, VOCABULARY)])


def write_tokenizer(folder: Path, *, special: Sequence[str]) -> None:
    """A ``tokenizer.json`` whose tokens are the 256 bytes and ``special``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")


def _scaling_fields(scaling: FrequencyRope | LongRope) -> dict[str, Any]:
    fields = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in attrs.asdict(scaling).items()
        if value is not None
    }
    fields["original_max_position_embeddings"] = fields.pop("original_max_position")
    return fields


def _thinned(scaling: RopeScaling, count: int) -> RopeScaling:
    if not isinstance(scaling, LongRope):
        return scaling
    step = len(scaling.long_factor) / count
    kept = [int(index * step) for index in range(count)]
    return attrs.evolve(
        scaling,
        short_factor=tuple(scaling.short_factor[index] for index in kept),
        long_factor=tuple(scaling.long_factor[index] for index in kept),
    )
