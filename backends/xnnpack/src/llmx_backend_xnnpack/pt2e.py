"""XNNPACK's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

FOUR_BITS = {"weight_qmin": -8, "weight_qmax": 7}


def _dynamic(**weights: int) -> Any:
    """Linear layers with one scale per row, activations in 8 bits, scaled while running."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True, **weights)
    return XNNPACKQuantizer().set_global(config)


QUANTIZERS: Mapping[str, Callable[[], Any]] = {
    "xnnpack_dynamic": _dynamic,
    "xnnpack_dynamic_qc4": partial(_dynamic, **FOUR_BITS),
}
