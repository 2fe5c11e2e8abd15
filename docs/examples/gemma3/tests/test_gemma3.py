"""Gemma 3 computes what transformers computes."""

from __future__ import annotations

from typing import Any

from llmx.testing import FamilyConformance
from llmx.testing.reference import hf_fields


class TestGemma3(FamilyConformance):
    family = "gemma3"
    model_type = "gemma3_text"

    @classmethod
    def config(cls, params: Any) -> dict[str, Any]:
        fields = hf_fields(params)
        ropes = {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": {"rope_theta": params.local_rope_theta, "rope_type": "default"},
        }
        scale = {"query_pre_attn_scalar": params.query_scale}
        return {**fields, **scale, "rope_parameters": ropes}
