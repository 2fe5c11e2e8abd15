"""Core ML's quantizers for graphs, by their names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

FOUR_BITS = {"weight_qmin": -8, "weight_qmax": 7}


def _baseline(**weights: int) -> Any:
    """What XNNPACK's quantizer marks: activations in 8 bits of a fixed range, weights per row."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False, **weights)
    return XNNPACKQuantizer().set_global(config)


def _core_ml() -> Any:
    """What Core ML's own quantizer marks: activations in 8 unsigned bits, weights per row."""
    import torch
    from coremltools.optimize.torch.quantization.quantization_config import (
        LinearQuantizerConfig,
        QuantizationScheme,
    )
    from executorch.backends.apple.coreml.quantizer import CoreMLQuantizer

    class FloatsOnly(CoreMLQuantizer):  # type: ignore[misc]
        """Leaves whole numbers, such as positions, as they are."""

        def annotate(self, model: GraphModule) -> GraphModule:
            marked: GraphModule = super().annotate(model)
            for node in marked.graph.nodes:
                annotation = node.meta.get("quantization_annotation")
                if annotation is None:
                    continue
                specs = annotation.input_qspec_map
                annotation.input_qspec_map = {
                    each: spec for each, spec in specs.items() if _is_float(each)
                }
                if not _is_float(node):
                    annotation.output_qspec = None
            return marked

    common = {
        "quantization_scheme": QuantizationScheme.affine,
        "activation_dtype": torch.quint8,
        "weight_dtype": torch.qint8,
        "weight_per_channel": True,
    }
    return FloatsOnly(LinearQuantizerConfig.from_dict({"global_config": common}))


def _is_float(node: Node) -> bool:
    from torch import Tensor

    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


QUANTIZERS: Mapping[str, Callable[[], Any]] = {
    "coreml_8a_c8w": _core_ml,
    "coreml_baseline_8a_c8w": _baseline,
    "coreml_baseline_8a_c4w": partial(_baseline, **FOUR_BITS),
}
