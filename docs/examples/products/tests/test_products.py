"""The example backend takes what it says, and its programs compute what their models compute."""

from __future__ import annotations

from types import MappingProxyType

from llmx.testing import BackendConformance
from llmx.testing.backends import Lowered


class TestProducts(BackendConformance):
    backend = "products"
    # Gate, up and down have 128 * 64 weights each; all other products have fewer.
    exports = MappingProxyType({"default": {"backend.products.least_weights": 5000}})
    shape = MappingProxyType({"num_hidden_layers": 1, "vocab_size": 64})
    delegated = 0.01
    refusals = MappingProxyType({"a quantization": ({"qmode": "8da4w"}, "in float, not 8da4w")})

    def test_only_large_products_are_delegated(self, llmx_lowered: Lowered) -> None:
        assert llmx_lowered.artifact.manifest["delegation"]["subgraphs"] == 3
