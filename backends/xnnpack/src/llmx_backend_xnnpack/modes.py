"""Which quantized weights XNNPACK has kernels for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmx import ConfigError

if TYPE_CHECKING:
    from llmx.config import ExportJob

QMODES = ("8da4w", "8da8w", "int8")
ROW_MODES = ("8da8w", "int8")
GROUP_MULTIPLE = 32


def check_quantization(job: ExportJob) -> None:
    """Refuse weights that would be left to other kernels, or that no kernel reads.

    Raises:
        ConfigError: with what to use instead.
    """
    quantization = job.quantization
    qmode, embedding = quantization.qmode, quantization.embedding_quantize
    if qmode is not None and qmode not in QMODES:
        raise ConfigError(
            f"XNNPACK has no kernels for quantization.qmode={qmode}",
            remedy=f"use {', '.join(QMODES)}"
            + (": it takes 4 bits with activations in 8 bits only" if qmode == "4w" else ""),
        )
    if qmode in ROW_MODES and quantization.group_size:
        raise ConfigError(
            f"quantization.group_size={quantization.group_size}: XNNPACK takes 8-bit weights with "
            "one scale per row only",
            remedy="leave the group size out",
        )
    if quantization.head_quantize is not None and not _is_linear(quantization.head_quantize):
        raise ConfigError(
            f"quantization.head_quantize={quantization.head_quantize}: XNNPACK has no kernels "
            "for such a head",
            remedy=f"use 8,0 or 4,{GROUP_MULTIPLE}",
        )
    if embedding is None:
        return
    if embedding.startswith("torchao:"):
        raise ConfigError(
            f"XNNPACK has no kernels for quantization.embedding_quantize={embedding}",
            remedy="use 4,32 or 8,0",
        )
    if job.model.use_shared_embedding:
        _check_shared_table(embedding)


def _check_shared_table(embedding: str) -> None:
    if not _is_linear(embedding):
        raise ConfigError(
            f"model.use_shared_embedding with quantization.embedding_quantize={embedding}: "
            "XNNPACK cannot use such a table as the head",
            remedy=f"use 8,0 or 4,{GROUP_MULTIPLE}",
        )


def _is_linear(text: str) -> bool:
    """Whether there are kernels that multiply with '<bits>,<group>'."""
    bits, group = (int(part) for part in text.split(","))
    return (bits, group) == (8, 0) or (bits == 4 and group % GROUP_MULTIPLE == 0)
