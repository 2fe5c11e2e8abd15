"""Any causal language model of Hugging Face ``transformers``, by its own modeling code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmx import Checkpoint, DecoderParams, ModelSize, TokenIds, WeightMap, hookimpl

if TYPE_CHECKING:
    import torch

    from llmx.model.ops import BuildOptions, ModelOps


@hookimpl
def sizes() -> Mapping[str, ModelSize]:
    return {}


@hookimpl
def match_config(config: Mapping[str, Any]) -> int:
    from llmx.model.matching import ANOTHER, STAND_IN
    from llmx_plugin_transformers.listed import is_causal_model

    return STAND_IN if is_causal_model(config.get("model_type")) else ANOTHER


@hookimpl
def params_from_hf(config: Mapping[str, Any]) -> DecoderParams:
    from llmx_plugin_transformers.parameters import read_params

    return read_params(json.dumps(dict(config), sort_keys=True))


@hookimpl
def convert_weights(
    checkpoint: Checkpoint, params: DecoderParams
) -> WeightMap | Iterable[tuple[str, torch.Tensor]]:
    from llmx_plugin_transformers.parameters import TransformersParams
    from llmx_plugin_transformers.weights import convert

    assert isinstance(params, TransformersParams)
    return convert(checkpoint, params)


@hookimpl
def token_ids(checkpoint: Checkpoint | None) -> TokenIds:
    from llmx.checkpoint import read_token_ids

    nothing = TokenIds(bos=None, eos=())
    return nothing if checkpoint is None else read_token_ids(checkpoint, nothing)


@hookimpl
def build_model(params: DecoderParams, ops: ModelOps, build: BuildOptions) -> torch.nn.Module:
    from llmx_plugin_transformers.model import TransformersModel
    from llmx_plugin_transformers.parameters import TransformersParams

    assert isinstance(params, TransformersParams)
    return TransformersModel(params, ops, build)


@hookimpl
def default_backend() -> str:
    return "xnnpack"
