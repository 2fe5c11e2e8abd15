"""QNN's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any


def _quantizer(dtype: str, *, per_channel: bool, attention_in_8_bits: bool = False) -> Any:
    """Everything in integers: activations of a fixed range, weights per row or per tensor."""
    from executorch.backends.qualcomm.quantizer.custom_annotation import (
        custom_annotate_llama_matmul_16a8w,
    )
    from executorch.backends.qualcomm.quantizer.quantizer import QnnQuantizer, QuantDtype
    from torchao.quantization.pt2e import MinMaxObserver

    quantizer = QnnQuantizer()
    quantizer.set_default_quant_config(
        QuantDtype[f"use_{dtype}"],
        is_conv_per_channel=per_channel,
        is_linear_per_channel=per_channel,
        act_observer=None if dtype == "8a8w" else MinMaxObserver,
    )
    if attention_in_8_bits:
        quantizer.add_custom_quant_annotations((custom_annotate_llama_matmul_16a8w,))
    return quantizer


QUANTIZERS: Mapping[str, Callable[[], Any]] = {
    "qnn_16a4w": partial(_quantizer, "16a4w", per_channel=True, attention_in_8_bits=True),
    # The NPU fails on 16-bit weights with a scale per row.
    "qnn_16a16w": partial(_quantizer, "16a16w", per_channel=False),
    "qnn_8a8w": partial(_quantizer, "8a8w", per_channel=True),
}
