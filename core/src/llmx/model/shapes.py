"""Shapes of a model that is to be built, without memory for its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from llmx.model.ops import BuildOptions, plain_ops
from llmx.model.params import DecoderParams


def parameter_shapes(
    build_model: Callable[..., nn.Module], params: DecoderParams
) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by name, a tied head left out.

    Args:
        build_model: takes ``params``, ``ops`` and ``build``, as the hook of that name.
    """
    with torch.device("meta"):
        model = build_model(
            params=params,
            ops=plain_ops(kv_cache=False, fused_attention=False, int8_cache=False),
            build=BuildOptions(dtype=torch.float32, max_context_length=1),
        )
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if not (params.tied_embeddings and name == "head.weight")
    }
