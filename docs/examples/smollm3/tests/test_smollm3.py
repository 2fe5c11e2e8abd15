"""SmolLM3 computes what transformers computes."""

from __future__ import annotations

from typing import Any

import attrs

from llmx.testing import FamilyConformance
from llmx.testing.reference import hf_fields


class TestSmolLM3(FamilyConformance):
    family = "smollm3"
    model_type = "smollm3"

    @classmethod
    def shrink(cls, params: Any, n_layers: int) -> Any:
        # So that one of few layers does not rotate.
        return attrs.evolve(super().shrink(params, n_layers), rotated_layers=(True, False))

    @classmethod
    def config(cls, params: Any) -> dict[str, Any]:
        pattern = params.rotated_layers * params.n_layers
        # The default of this token lies beyond a tiny vocabulary.
        rotated = {"no_rope_layers": [int(each) for each in pattern[: params.n_layers]]}
        return {**hf_fields(params), **rotated, "use_sliding_window": False, "pad_token_id": None}
