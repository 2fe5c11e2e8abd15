"""LFM2: most layers convolve the last few tokens, some attend to all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx import (
    Checkpoint,
    CheckpointError,
    DecoderParams,
    ModelSize,
    TokenIds,
    WeightMap,
    hookimpl,
)

if TYPE_CHECKING:
    import torch

    from llmx.model.ops import BuildOptions, ModelOps

MODEL_TYPE = "lfm2"
ATTENTION, CONVOLUTION = "full_attention", "conv"
# Of the 16 layers that the three smaller sizes have.
ATTENDING = tuple(layer in (2, 5, 8, 10, 12, 14) for layer in range(16))


@frozen(kw_only=True)
class Lfm2Params(DecoderParams):
    """``attending`` says for each layer whether it attends; the others look at the last
    ``conv_length`` tokens, the own one included."""

    attending: tuple[bool, ...]
    conv_length: int
    conv_bias: bool = False

    @property
    def parameter_count(self) -> int:
        heads, kv_heads = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * (heads + kv_heads) + 2 * self.head_dim
        convolution = self.dim * (4 * self.dim + self.conv_length + 5 * self.conv_bias)
        convolving = self.n_layers - sum(self.attending)
        return super().parameter_count + convolving * (convolution - attention)

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        return super().kv_bytes_per_token(element_bytes) * sum(self.attending) // self.n_layers


def _size(name: str, dim: int, n_heads: int, hidden_dim: int) -> ModelSize:
    repo = f"LiquidAI/LFM2-{name}"
    params = Lfm2Params(
        dim=dim, n_layers=16, n_heads=n_heads, n_kv_heads=8, head_dim=64, hidden_dim=hidden_dim,
        vocab_size=65536, max_position=128000, norm_eps=1e-5, rope_theta=1e6,
        tied_embeddings=True, qk_norm=True, attending=ATTENDING, conv_length=3,
    )  # fmt: skip
    url = f"https://huggingface.co/{repo}/blob/main/config.json"
    return ModelSize(params=params, hub_repo=repo, config_url=url)


SIZES = {
    "350m": _size("350M", 1024, 16, 4608),
    "700m": _size("700M", 1536, 24, 6912),
    "1.2b": _size("1.2B", 2048, 32, 8192),
}
PUBLISHED = TokenIds(bos=1, eos=(7,))


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import match_sizes

    return match_sizes(config, MODEL_TYPE, SIZES, params_from_hf)


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    attending = _attending(config)
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 1e6)}
    ours = {
        "intermediate_size": _hidden_dim(config),
        "rms_norm_eps": config.get("norm_eps", 1e-5),
        "tie_word_embeddings": config.get("tie_embedding", config.get("tie_word_embeddings", True)),
        "rope_parameters": rope,
        "layer_types": None,  # the model below has both, the usual decoder would refuse
    }
    return Lfm2Params.extending(
        decoder_params({**config, **ours}, qk_norm=True),
        attending=attending,
        conv_length=config.get("conv_L_cache", 3),
        conv_bias=config.get("conv_bias", False),
    )


def _attending(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """Older files list the layers that attend, newer ones what every layer is."""
    kinds, count = config.get("layer_types"), config.get("num_hidden_layers", 0)
    if kinds is None:
        listed = config.get("full_attn_idxs")
        return tuple(listed is None or layer in listed for layer in range(count))
    unknown = set(kinds) - {ATTENTION, CONVOLUTION}
    if unknown or len(kinds) != count:
        raise CheckpointError(
            f"layer_types has {len(kinds)} entries for {count} layers, "
            f"and the kinds {', '.join(sorted(set(kinds)))}",
            remedy=f"each layer of LFM2 is {ATTENTION} or {CONVOLUTION}",
        )
    return tuple(kind == ATTENTION for kind in kinds)


def _hidden_dim(config: Mapping[str, Any]) -> int:
    """The width of feed-forward blocks; what files state is that before it is adjusted."""
    stated: int = config.get("block_ff_dim") or config["intermediate_size"]
    if not config.get("block_auto_adjust_ff_dim", True):
        return stated
    width = int(config.get("block_ffn_dim_multiplier", 1.0) * (2 * stated // 3))
    multiple: int = config.get("block_multiple_of", 256)
    return -(-width // multiple) * multiple


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: Lfm2Params) -> WeightMap:
    from llmx.checkpoint import hf_decoder_map

    stored, ours = "model.layers.{i}", "layers.{i}"
    entries = {
        "model.embedding_norm.weight": "norm.weight",
        f"{stored}.ffn_norm.weight": f"{ours}.feed_forward_norm.weight",
        f"{stored}.self_attn.out_proj.weight": f"{ours}.attention.o_proj.weight",
        f"{stored}.self_attn.q_layernorm.weight": f"{ours}.attention.q_norm.weight",
        f"{stored}.self_attn.k_layernorm.weight": f"{ours}.attention.k_norm.weight",
    }
    for name, part in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
        entries[f"{stored}.feed_forward.{name}.weight"] = f"{ours}.feed_forward.{part}.weight"
    for name in ("conv", "in_proj", "out_proj"):
        for kind in ("weight", "bias"):
            entries[f"{stored}.conv.{name}.{kind}"] = f"{ours}.conv.{name}.{kind}"
    for layer, attends in enumerate(params.attending):
        norm = "attention_norm" if attends else "conv_norm"
        entries[f"model.layers.{layer}.operator_norm.weight"] = f"layers.{layer}.{norm}.weight"
    return hf_decoder_map(params).updated(entries)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def build_model(params: DecoderParams, ops: ModelOps, build: BuildOptions) -> torch.nn.Module:
    from llmx_example_lfm2_model import Lfm2

    return Lfm2(params, ops, build)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
