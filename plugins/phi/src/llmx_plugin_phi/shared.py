"""What Phi-3, Phi-3.5 and Phi-4-mini have in common."""

from __future__ import annotations

from typing import Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

MODEL_TYPE = "phi3"
TRAINED_CONTEXT = 4096  # tokens; longer ones use the other rotary factors

# Stored name to the projections that it holds one after the other, in the two layouts that fuse.
ATTENTION = tuple(f"layers.{{i}}.attention.{name}_proj.weight" for name in "qkv")
FEED_FORWARD = tuple(f"layers.{{i}}.feed_forward.{name}_proj.weight" for name in ("gate", "up"))
FUSED = {
    "hf": {
        "model.layers.{i}.self_attn.qkv_proj.weight": ATTENTION,
        "model.layers.{i}.mlp.gate_up_proj.weight": FEED_FORWARD,
    },
    "gguf": {"blk.{i}.attn_qkv.weight": ATTENTION, "blk.{i}.ffn_up.weight": FEED_FORWARD},
    "meta": {},
}


def published(repo: str, **params: Any) -> ModelSize:
    """A row of a family's table; ``repo`` is a repository of the organisation microsoft."""
    return ModelSize(
        params=DecoderParams(
            dim=3072, n_layers=32, hidden_dim=8192, norm_eps=1e-5, rope_theta=1e4, **params
        ),
        hub_repo=f"microsoft/{repo}",
        config_url=f"https://huggingface.co/microsoft/{repo}/blob/main/config.json",
    )


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import decoder_map

    plain = decoder_map(checkpoint, params, gguf_interleaved_qk=False)
    return plain.updated(FUSED[checkpoint.layout])


def read_ids(checkpoint: Checkpoint | None, published_ids: TokenIds) -> TokenIds:
    """The checkpoint's own ids, or the published ones where it says nothing."""
    from llmx.checkpoint import read_token_ids

    return published_ids if checkpoint is None else read_token_ids(checkpoint, published_ids)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
