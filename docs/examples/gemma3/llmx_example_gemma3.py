"""Gemma 3, text only: norms of its own, GELU, local and global layers with two rotary bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

if TYPE_CHECKING:
    import torch

    from llmx.model.ops import BuildOptions, ModelOps

REPO = "google/gemma-3-270m-it"
LOCAL_LAYERS = (True, True, True, True, True, False)


@frozen(kw_only=True)
class Gemma3Params(DecoderParams):
    """``rope_theta`` is that of the global layers; scores are divided by sqrt(``query_scale``)."""

    local_rope_theta: float
    query_scale: int

    @property
    def parameter_count(self) -> int:
        # Two more norms in each layer than the usual decoder has.
        return super().parameter_count + 2 * self.n_layers * self.dim


SIZES = {
    "270m": ModelSize(
        params=Gemma3Params(
            dim=640, n_layers=18, n_heads=4, n_kv_heads=1, head_dim=256, hidden_dim=2048,
            vocab_size=262144, max_position=32768, norm_eps=1e-6, rope_theta=1e6,
            tied_embeddings=True, qk_norm=True, sliding_window=512,
            windowed_layers=LOCAL_LAYERS * 3, local_rope_theta=1e4, query_scale=256,
        ),
        hub_repo=REPO,
        config_url=f"https://huggingface.co/{REPO}/blob/main/config.json",
    ),
}  # fmt: skip
PUBLISHED = TokenIds(bos=2, eos=(1, 106))
# The norms before and after each half of a layer.
NORMS: Mapping[str, str] = {
    "post_attention_layernorm": "attention_post_norm",
    "pre_feedforward_layernorm": "feed_forward_norm",
    "post_feedforward_layernorm": "feed_forward_post_norm",
}


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    ropes = config.get("rope_parameters") or {
        "full_attention": {"rope_theta": config.get("rope_theta", 1e6)},
        "sliding_attention": {"rope_theta": config.get("rope_local_base_freq", 1e4)},
    }
    # What the model below does, and the usual decoder would refuse.
    done = {"hidden_activation": "silu", "query_pre_attn_scalar": None}
    usual = decoder_params(
        {**config, **done, "rope_parameters": ropes["full_attention"]}, qk_norm=True
    )
    return Gemma3Params.extending(
        usual,
        local_rope_theta=float(ropes["sliding_attention"]["rope_theta"]),
        query_scale=int(config["query_pre_attn_scalar"]),
    )


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import hf_decoder_map

    norms = {f"model.layers.{{i}}.{key}.weight": f"layers.{{i}}.{value}.weight"
             for key, value in NORMS.items()}  # fmt: skip
    return hf_decoder_map(params).updated(norms)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def build_model(params: DecoderParams, ops: ModelOps, build: BuildOptions) -> torch.nn.Module:
    from llmx_example_gemma3_model import Gemma3

    return Gemma3(params, ops, build)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
