"""What holds for programs that run on ExecuTorch's own kernels alone, without a delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx.errors import ConfigError

if TYPE_CHECKING:
    from llmx.config import ExportJob
    from llmx.model.ops import ModelOps


def check(job: ExportJob) -> None:
    """Refuse weights in formats that those kernels do not read.

    Raises:
        ConfigError: with a quantization that they do.
    """
    for key, instead in (("qmode", "8da4w"), ("embedding_quantize", "4,32")):
        value = getattr(job.quantization, key)
        if value is not None and value.startswith("torchao:"):
            raise ConfigError(
                f"quantization.{key}={value} is for a backend with low-bit kernels",
                remedy=f"name one (see `llmx backends`), or use quantization.{key}={instead}",
            )


def model_ops(job: ExportJob) -> ModelOps:
    """Quantized weights as operators that need no fusion: the runtime has kernels for them."""
    import attrs

    from llmx.model.ops import ops_for
    from llmx.quantize.embedding import QuantizedEmbedding
    from llmx.quantize.linear import RowLinear

    return attrs.evolve(ops_for(job), quantized_linear=RowLinear, shared_table=QuantizedEmbedding)
