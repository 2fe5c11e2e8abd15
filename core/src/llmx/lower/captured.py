"""The graph of ``torch.export`` as a file, for people who lower it themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from llmx.config import ExportJob
from llmx.lower.capture import capture, example_inputs
from llmx.progress import Stages


def write_captured(model: nn.Module, job: ExportJob, stages: Stages, path: Path) -> None:
    """Write the filled model as ``torch.export.load`` reads it.

    Raises:
        LoweringError: the model cannot be traced.
    """
    assert job.export.max_seq_length is not None
    inputs, dynamic_shapes = example_inputs(
        kv_cache=job.model.use_kv_cache,
        dynamic=job.model.enable_dynamic_shape,
        max_seq_length=job.export.max_seq_length,
    )
    with stages.stage("torch.export"):
        captured = capture(model, inputs, dynamic_shapes)
    with stages.stage("write graph"):
        torch.export.save(captured, path)
