"""What a job's linear layers are rounded for, where its method of quantization asks for texts."""

from __future__ import annotations

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


def calibration_of(
    job: ExportJob, tokenizer: Path | None, *, vocab_size: int, stages: Stages
) -> Calibration | None:
    """Texts of the job, ``None`` if its method needs none. ``job``'s lengths are resolved.

    Raises:
        ConfigError: the calibration text cannot be read.
        ArtifactError: the runtime cannot load the tokenizer.
    """
    options = job.quantization
    if options.method != "gptq":
        return None
    if job.base.random_weights:
        stages.note("untrained weights are not calibrated but rounded to the nearest")
        return None
    text = calibration_text(options.calibration_file)
    assert job.export.max_seq_length is not None
    length = min(options.calibration_seq_length or SEQUENCE, job.export.max_seq_length)
    if tokenizer is None:
        stages.note(
            "without a tokenizer, layers are rounded for random tokens; name it to do better"
        )
        texts = random_sequences(vocab_size, length=length, limit=options.calibration_limit)
    else:
        texts = token_sequences(
            text, load_tokenizer(tokenizer), length=length, limit=options.calibration_limit
        )
    return Calibration(texts, _cached_call if job.model.use_kv_cache else _call)


def _call(model: nn.Module, tokens: Tensor) -> object:
    return model(tokens)


def _cached_call(model: nn.Module, tokens: Tensor) -> object:
    return model(tokens, torch.tensor([0]))
