"""What a job's linear layers are rounded for, where its method of quantization asks for texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from llmx.config import ExportJob
from llmx.progress import Stages
from llmx.quantize.calibrated import Calibration
from llmx.quantize.calibration import (
    SEQUENCE,
    calibration_text,
    random_sequences,
    token_sequences,
)
from llmx.run.tokenizer import load_tokenizer

WITHOUT_TOKENIZER = (
    "without a tokenizer, random tokens take the place of a text; name it to do better"
)


def calibration_of(
    job: ExportJob, tokenizer: Path | None, *, vocabulary: Sequence[int], stages: Stages
) -> Calibration | None:
    """What layers are rounded for, ``None`` if the job's method rounds each for itself.

    For arguments and errors see ``texts_of``.
    """
    if job.quantization.method != "gptq":
        return None
    if job.base.random_weights:
        stages.note("untrained weights are not calibrated but rounded to the nearest")
        return None
    texts = texts_of(job, tokenizer, vocabulary=vocabulary, stages=stages)
    return Calibration(texts, _cached_call if job.model.use_kv_cache else _call)


def texts_of(
    job: ExportJob, tokenizer: Path | None, *, vocabulary: Sequence[int], stages: Stages
) -> list[Tensor]:
    """Texts to round for or to measure on, token ids [1, S] each. ``job``'s lengths are resolved.

    Args:
        vocabulary: ids of the tokens that the model reads; texts are without any others.

    Raises:
        ConfigError: the calibration text cannot be read.
        ArtifactError: the runtime cannot load the tokenizer.
    """
    options = job.quantization
    assert job.export.max_seq_length is not None
    length = min(options.calibration_seq_length or SEQUENCE, job.export.max_seq_length)
    if tokenizer is None:
        if WITHOUT_TOKENIZER not in stages.notes:
            stages.note(WITHOUT_TOKENIZER)
        return random_sequences(vocabulary, length=length, limit=options.calibration_limit)
    return token_sequences(
        calibration_text(options.calibration_file),
        load_tokenizer(tokenizer),
        length=length,
        limit=options.calibration_limit,
        vocabulary=vocabulary,
    )


def _call(model: nn.Module, tokens: Tensor) -> object:
    return model(tokens)


def _cached_call(model: nn.Module, tokens: Tensor) -> object:
    return model(tokens, torch.tensor([0]))
