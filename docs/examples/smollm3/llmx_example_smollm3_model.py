"""llmx's decoder with layers that do not rotate (NoPE, https://arxiv.org/abs/2501.18795)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmx.model.decoder import Decoder
from llmx.model.ops import BuildOptions, ModelOps


class SmolLM3(Decoder):
    """Layers that do not rotate are given angles of 0; ``kind`` tells the two apart."""

    def make_layer(self, index: int, params: Any, ops: ModelOps, build: BuildOptions) -> nn.Module:
        layer: Any = super().make_layer(index, params, ops, build)
        layer.kind = params.rotated_layers[index % len(params.rotated_layers)]
        return layer  # type: ignore[no-any-return]

    def angles(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        layers: Any = self.layers
        cos, sin = self.rope(positions)
        still = torch.ones_like(cos), torch.zeros_like(sin)
        return [(cos, sin) if layer.kind else still for layer in layers]
