"""SmolLM2 computes what Hugging Face's implementation computes."""

from __future__ import annotations

from llmx.testing import FamilyConformance

# The hub's count of the safetensors files.
COUNTS = {"135m": 134_515_008, "360m": 361_821_120, "1.7b": 1_711_376_384}


class TestSmolLM2(FamilyConformance):
    family = "smollm2"
    model_type = "llama"
    published_counts = COUNTS
