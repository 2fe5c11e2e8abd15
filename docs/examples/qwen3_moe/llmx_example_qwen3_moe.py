"""Qwen3's mixtures of experts: some of the experts count for each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

if TYPE_CHECKING:
    import torch

    from llmx.model.ops import BuildOptions, ModelOps

REPO = "Qwen/Qwen3-30B-A3B"


@frozen(kw_only=True)
class MixtureParams(DecoderParams):
    """``hidden_dim`` is that of one expert; ``n_chosen`` of ``n_experts`` count for a token."""

    n_experts: int
    n_chosen: int

    @property
    def parameter_count(self) -> int:
        expert = 3 * self.dim * self.hidden_dim
        further = (self.n_experts - 1) * expert + self.n_experts * self.dim
        return super().parameter_count + self.n_layers * further


SIZES = {
    "30b-a3b": ModelSize(
        params=MixtureParams(
            dim=2048, n_layers=48, n_heads=32, n_kv_heads=4, head_dim=128, hidden_dim=768,
            vocab_size=151936, max_position=40960, norm_eps=1e-6, rope_theta=1e6, qk_norm=True,
            n_experts=128, n_chosen=8,
        ),
        hub_repo=REPO,
        config_url=f"https://huggingface.co/{REPO}/blob/main/config.json",
    ),
}  # fmt: skip
PUBLISHED = TokenIds(bos=151643, eos=(151645, 151643))


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    # What the model below does, and the usual decoder would refuse.
    done = {"num_experts": None, "num_local_experts": None}
    one_expert = {"intermediate_size": config["moe_intermediate_size"]}
    usual = decoder_params({**config, **done, **one_expert}, qk_norm=True)
    return MixtureParams.extending(
        usual,
        n_experts=config.get("num_experts") or config["num_local_experts"],
        n_chosen=config["num_experts_per_tok"],
    )


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: MixtureParams) -> WeightMap:
    from llmx.checkpoint import hf_decoder_map

    stored, ours = "model.layers.{i}.mlp", "layers.{i}.feed_forward"
    experts = {
        f"{stored}.experts.{expert}.{part}_proj.weight":
            f"{ours}.experts.{expert}.{part}_proj.weight"
        for expert in range(params.n_experts)
        for part in ("gate", "up", "down")
    }  # fmt: skip
    router = {f"{stored}.gate.weight": f"{ours}.router.weight"}
    return hf_decoder_map(params).updated({**experts, **router})


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def build_model(params: DecoderParams, ops: ModelOps, build: BuildOptions) -> torch.nn.Module:
    from llmx_example_qwen3_moe_model import Mixture

    return Mixture(params, ops, build)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
