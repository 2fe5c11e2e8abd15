"""Core ML's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

FOUR_BITS = {"weight_qmin": -8, "weight_qmax": 7}


def _baseline(**weights: int) -> Any:
    """What XNNPACK's quantizer marks: activations in 8 bits of a fixed range, weights per row."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False, **weights)
    return XNNPACKQuantizer().set_global(config)


QUANTIZERS: Mapping[str, Callable[[], Any]] = {
    "coreml_baseline_8a_c8w": _baseline,
    "coreml_baseline_8a_c4w": partial(_baseline, **FOUR_BITS),
}
