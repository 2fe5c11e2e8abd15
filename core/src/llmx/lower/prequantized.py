"""Checkpoints that Meta published as integers: what a job has to say of them, and what follows."""

from __future__ import annotations

import attrs

from llmx.checkpoint import Checkpoint
from llmx.checkpoint.packed import PackedCheckpoint
from llmx.config import BaseOptions, ExportJob
from llmx.errors import CheckpointError, ConfigError

HEAD_IN_ROWS = "8da4w_output_8da8w"
HEAD_IN_GROUPS = "8da4w"
ROWS = "8,0"
EMBEDDING, HEAD = "tok_embeddings.weight", "output.weight"


def resolve_prequantized(job: ExportJob, checkpoint: Checkpoint | None) -> ExportJob:
    """The job with the formats of such a checkpoint, whose integers stay as they are.

    Raises:
        CheckpointError: the job does not say how the integers were made, or there are none.
        ConfigError: ``base.preq_*`` are not what is stored.
    """
    quantization, base = job.quantization, job.base
    asked = quantization.use_spin_quant is not None or quantization.use_qat
    if not (isinstance(checkpoint, PackedCheckpoint) and checkpoint.layout == "meta"):
        if asked:
            raise CheckpointError(
                "quantization.use_spin_quant and use_qat are for integers in Meta's layout, which "
                f"{base.checkpoint or 'this model'} does not have",
                remedy="leave them out",
            )
        return job
    if not asked:
        raise CheckpointError(
            f"{checkpoint.source} holds integers, and nothing in it says whether they are rotated",
            remedy="add quantization.use_spin_quant=native if it was made by SpinQuant, "
            "else quantization.use_qat=true",
        )
    _check_formats(checkpoint, base)
    table, head = quantization.embedding_quantize, quantization.head_quantize
    return attrs.evolve(
        job,
        quantization=attrs.evolve(
            quantization,
            qmode=quantization.qmode or "8da4w",
            group_size=base.preq_group_size,
            embedding_quantize=_table(checkpoint) or table,
            head_quantize=ROWS if _mode(checkpoint) == HEAD_IN_ROWS else head,
            imported="keep",
        ),
    )


def _check_formats(checkpoint: PackedCheckpoint, base: BaseOptions) -> None:
    for name in checkpoint.weights:
        group = _group(checkpoint, name)
        if name != EMBEDDING and group and group != base.preq_group_size:
            raise ConfigError(
                f"base.preq_group_size={base.preq_group_size}: {name} is stored in groups of "
                f"{group}",
                remedy=f"use base.preq_group_size={group}",
            )
    mode = _mode(checkpoint)
    if base.preq_mode not in (None, mode):
        raise ConfigError(
            f"base.preq_mode={base.preq_mode}: the head is stored as in {mode}",
            remedy=f"use base.preq_mode={mode}, or leave it out",
        )
    table, stated = _table(checkpoint), base.preq_embedding_quantize
    # The older tool also spells whole rows so.
    if table is not None and stated.replace(" ", "").lower().replace("none", "0") != table:
        raise ConfigError(
            f"base.preq_embedding_quantize={stated}: the embedding is stored as {table}",
            remedy=f"use base.preq_embedding_quantize={table}",
        )


def _table(checkpoint: PackedCheckpoint) -> str | None:
    return f"8,{_group(checkpoint, EMBEDDING)}" if EMBEDDING in checkpoint.weights else None


def _mode(checkpoint: PackedCheckpoint) -> str:
    in_rows = HEAD in checkpoint.weights and _group(checkpoint, HEAD) == 0
    return HEAD_IN_ROWS if in_rows else HEAD_IN_GROUPS


def _group(checkpoint: PackedCheckpoint, name: str) -> int:
    """Weights of one scale; 0 for whole rows."""
    weight = checkpoint.weights[name]
    scales = checkpoint.inner.tensors[weight.parts["scales"]].shape
    groups = scales[1] if len(scales) == 2 else 1
    return 0 if groups == 1 else weight.info.shape[1] // groups
