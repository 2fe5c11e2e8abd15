"""Tiny models of the installed families, one for all families that are built of the same parts."""

from __future__ import annotations

from typing import Any

from llmx.plugins import FAMILIES, installed, load
from llmx.testing.reference import VOCABULARY, hf_fields, shrink
from llmx.testing.shapes import meta_decoder_shapes

LAYERS = 1
GENERAL = {
    "model_type": "olmo2",
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
}
"""For a family without sizes of its own: an architecture that no other family has."""


def tiny_families() -> dict[str, dict[str, Any]]:
    """Fields of ``config.json`` by family.

    Families whose models have the same parameters, look back alike and rotate whole heads or parts
    differ in numbers alone: what a backend does with one of them it does with all.
    """
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    for each in installed(FAMILIES):
        family = load(each.name, None).family
        if not family.sizes():
            found[each.name] = each.name, GENERAL
            continue
        params = shrink(family.default_params(size=None), n_layers=LAYERS)
        parts = frozenset(meta_decoder_shapes(family, params)) - {"head.weight"}
        windows = any(params.layer_window(layer) for layer in range(LAYERS))
        kind = parts, params.rotary_dim < params.head_dim, windows
        found.setdefault(kind, (each.name, hf_fields(params)))
    return dict(found.values())
