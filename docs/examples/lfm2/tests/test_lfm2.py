"""LFM2 computes what transformers computes."""

from __future__ import annotations

from typing import Any

import attrs

from llmx.testing import FamilyConformance
from llmx.testing.reference import hf_fields


class TestLfm2(FamilyConformance):
    family = "lfm2"
    model_type = "lfm2"
    published_counts = {"350m": 354_483_968, "700m": 742_489_344, "1.2b": 1_170_340_608}

    @classmethod
    def config(cls, params: Any) -> dict[str, Any]:
        fields = hf_fields(params)
        del fields["rms_norm_eps"]
        return {
            **fields,
            "norm_eps": params.norm_eps,
            "conv_L_cache": params.conv_length,
            "conv_bias": params.conv_bias,
            # Adjusted to the width that is wanted.
            "intermediate_size": params.hidden_dim * 3 // 2,
            "block_multiple_of": 32,
            "layer_types": ["full_attention" if each else "conv" for each in params.attending],
        }

    @classmethod
    def shrink(cls, params: Any, n_layers: int) -> Any:
        attending = tuple(layer % 2 == 1 for layer in range(n_layers))
        return attrs.evolve(super().shrink(params, n_layers), attending=attending)
