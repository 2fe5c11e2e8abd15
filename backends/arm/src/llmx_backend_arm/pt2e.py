"""Arm's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from typing import Any


def quantizer(kind: str, spec: Any, activation_bits: int) -> Any:
    """Weights in 8 bits per row, activations of a fixed range in 8 or 16.

    ``kind`` is the quantizer's class, for the compile ``spec``.
    """
    from executorch.backends.arm import quantizer as arm

    configs = {
        8: arm.get_symmetric_quantization_config,
        16: arm.get_symmetric_a16w8_quantization_config,
    }
    return getattr(arm, kind)(spec).set_global(configs[activation_bits]())
