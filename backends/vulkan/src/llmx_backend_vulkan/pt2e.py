"""Vulkan's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule


def _weights_in_8_bits() -> Any:
    """Linear layers with one scale per row and float activations."""
    from executorch.backends.vulkan.quantizer.vulkan_quantizer import (
        VulkanQuantizer,
        get_symmetric_quantization_config,
    )

    class NumbersKept(VulkanQuantizer):  # type: ignore[misc]
        """Makes no tensors of the graph's numbers, which only activations in integers need.

        Vulkan's fusion of RMS norms wants epsilon as a number.
        """

        def transform_for_annotation(self, model: GraphModule) -> GraphModule:
            return model

    config = get_symmetric_quantization_config(is_dynamic=False, weight_bits=8)
    return NumbersKept().set_global(config)


QUANTIZERS: Mapping[str, Callable[[], Any]] = {"vulkan_8w": _weights_in_8_bits}
