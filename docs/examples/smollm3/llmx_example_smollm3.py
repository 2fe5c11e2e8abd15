"""SmolLM3: every fourth layer goes without rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

if TYPE_CHECKING:
    import torch

    from llmx.model.ops import BuildOptions, ModelOps

REPO = "HuggingFaceTB/SmolLM3-3B"
MODEL_TYPE = "smollm3"


@frozen(kw_only=True)
class SmolLM3Params(DecoderParams):
    """``rotated_layers`` says which layers rotate queries and keys, as a pattern that repeats."""

    rotated_layers: tuple[bool, ...]


SIZES = {
    "3b": ModelSize(
        params=SmolLM3Params(
            dim=2048, n_layers=36, n_heads=16, n_kv_heads=4, head_dim=128, hidden_dim=11008,
            vocab_size=128256, max_position=65536, norm_eps=1e-6, rope_theta=5e6,
            tied_embeddings=True, rotated_layers=(True, True, True, False),
        ),
        hub_repo=REPO,
        config_url=f"https://huggingface.co/{REPO}/blob/main/config.json",
    ),
}  # fmt: skip
PUBLISHED = TokenIds(bos=128000, eos=(128012,))


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return SIZES


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx.model.hf_config import decoder_params

    usual = decoder_params({**config, "no_rope_layers": None})
    # A list of 1 for layers that rotate, whatever its name says.
    rotated = tuple(bool(each) for each in config.get("no_rope_layers") or (1, 1, 1, 0))
    return SmolLM3Params.extending(usual, rotated_layers=_shortest(rotated))


def _shortest(pattern: tuple[bool, ...]) -> tuple[bool, ...]:
    """The beginning that the rest of a pattern repeats."""
    lengths = range(1, len(pattern) + 1)
    found = next(n for n in lengths if (pattern[:n] * len(pattern))[: len(pattern)] == pattern)
    return pattern[:found]


@hookimpl
def convert_weights(checkpoint: Checkpoint, params: DecoderParams) -> WeightMap:
    from llmx.checkpoint import hf_decoder_map

    return hf_decoder_map(params)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    return PUBLISHED if checkpoint is None else read_token_ids(checkpoint, PUBLISHED)


@hookimpl
def build_model(params: DecoderParams, ops: ModelOps, build: BuildOptions) -> torch.nn.Module:
    from llmx_example_smollm3_model import SmolLM3

    return SmolLM3(params, ops, build)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
