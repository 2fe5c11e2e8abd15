"""What coremltools is asked for, as the backend's options say."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmx_backend_coreml import CoremlOptions

BLOCK = 32
GRANULARITY: dict[str, dict[str, Any]] = {
    "b4w": {"granularity": "per_block", "block_size": BLOCK},
    "c4w": {"granularity": "per_channel"},
}
SDPA = "scaled_dot_product_attention.default"


def partitioner(options: CoremlOptions) -> Any:
    """A ``CoreMLPartitioner`` whose parts compute in fp16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=getattr(coremltools.target, f"iOS{options.ios}"),
        compute_precision=coremltools.precision.FLOAT16,
        compute_unit=coremltools.ComputeUnit[options.compute_units.upper()],
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,
        op_linear_quantizer_config=_weights(options.quantize),
    )
    return CoreMLPartitioner(
        compile_specs=specs,
        take_over_mutable_buffer=options.enable_state,
        # An operator that is skipped is decomposed before Core ML sees it.
        skip_ops_for_coreml_delegation=[] if options.preserve_sdpa else [SDPA],
    )


def _weights(quantize: str | None) -> dict[str, Any] | None:
    if quantize is None:
        return None
    return {
        "mode": "linear_symmetric",
        "dtype": "int4",
        "weight_threshold": 512,
        **GRANULARITY[quantize],
    }
