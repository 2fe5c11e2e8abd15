"""Qwen3's mixtures of experts compute what transformers computes."""

from __future__ import annotations

from typing import Any

import attrs

from llmx.testing import FamilyConformance
from llmx.testing.reference import hf_fields


class TestQwen3Moe(FamilyConformance):
    family = "qwen3_moe"
    model_type = "qwen3_moe"

    @classmethod
    def config(cls, params: Any) -> dict[str, Any]:
        mixture = {
            "moe_intermediate_size": params.hidden_dim,
            "num_experts": params.n_experts,
            "num_experts_per_tok": params.n_chosen,
            "norm_topk_prob": True,
        }
        return {**hf_fields(params), **mixture, "use_sliding_window": False}

    @classmethod
    def shrink(cls, params: Any, n_layers: int) -> Any:
        return attrs.evolve(super().shrink(params, n_layers), n_experts=4, n_chosen=2)
