"""nncf's compression of weights, by the names in ``quantization.pt2e_quantize``."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from llmx.config import ExportJob


@frozen
class Compression:
    """Replaces the weights of a graph by integers and what makes floats of them.

    ``awq`` and ``scale_estimation`` look at what the layers are given in the calls.
    """

    mode: str
    group_size: int
    ratio: float | None
    awq: bool = False
    scale_estimation: bool = False

    def __call__(self, graph: GraphModule, calls: Iterable[Any]) -> GraphModule:
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with redirect_stdout(io.StringIO()):
            import nncf
            from executorch.backends.openvino.quantizer import OpenVINOQuantizer, QuantizationMode
            from nncf.experimental.torch.fx import compress_pt2e

            quantizer = OpenVINOQuantizer(
                mode=QuantizationMode(self.mode), group_size=self.group_size, ratio=self.ratio
            )
            looks = self.awq or self.scale_estimation
            compressed: GraphModule = compress_pt2e(
                graph,
                quantizer,
                dataset=nncf.Dataset(list(calls)) if looks else None,
                awq=self.awq,
                scale_estimation=self.scale_estimation,
            )
        return compressed


def compressions(job: ExportJob) -> Mapping[str, Callable[[], Compression]]:
    """Weights in 4 bits with a scale per group, or in 8 bits with scale and offset per row."""
    chosen = job.backend.options

    def four() -> Compression:
        return Compression(
            "int4wo_sym",
            chosen.nncf_compression_group_size,
            1,
            chosen.openvino_awq,
            chosen.openvino_scale_estimation,
        )

    def eight() -> Compression:
        return Compression("int8wo_asym", -1, None)

    return {"openvino_4wo": four, "openvino_8wo": eight}
