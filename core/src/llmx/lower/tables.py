"""What embedding and head become where the job leaves it to the model."""

from __future__ import annotations

import attrs

from llmx.checkpoint import TokenIds
from llmx.config import ExportJob
from llmx.config.checks import AUTOMATIC
from llmx.lower.vocabulary import read_vocabulary
from llmx.model.params import DecoderParams

SHARED_TABLE = "8,0"
OWN_TABLE = "4,32"


def resolve_tables(job: ExportJob, params: DecoderParams, special: TokenIds) -> ExportJob:
    """The job with an automatic ``embedding_quantize`` filled in.

    One 8-bit table that both use is smaller than two of 4 bits, and far better. A table that only
    the embedding uses is best at 4 bits, whose rounding hardly shows there.

    Args:
        special: as of ``read_vocabulary``, whose errors this has.
    """
    quantization = job.quantization
    if quantization.embedding_quantize != AUTOMATIC:
        return job
    vocabulary = read_vocabulary(job.model, size=params.vocab_size, special=special)
    shared = job.model.use_shared_embedding or (
        params.tied_embeddings
        and vocabulary.one_table
        and quantization.qmode is not None
        and quantization.head_quantize is None
    )
    table = SHARED_TABLE if shared else OWN_TABLE
    return attrs.evolve(
        job,
        model=attrs.evolve(job.model, use_shared_embedding=shared),
        quantization=attrs.evolve(quantization, embedding_quantize=table),
    )
