"""Portable kernels: programs without a delegate, the reference for the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmx import ConfigError, ExportJob
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod

TOKENS = torch.randint(128, (1, 12), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize(
    ("recipe", "bound"),
    # One step of 8-bit activations, which a last bit of fp32 decides, is much more than that bit.
    [("plain", 1e-5), ("small", 0.1)],
)
def test_a_program_computes_what_its_eager_model_does(
    recipe: str, bound: float, tiny_export: Any, eager: Any
) -> None:
    artifact = tiny_export(backend="portable", recipe=recipe)
    assert artifact.manifest["delegation"]["subgraphs"] == 0
    program, model = ProgramMethod(artifact.program), eager(artifact)
    for start, end in ((0, 8), (8, 9), (9, 12)):
        inputs = TOKENS[:, start:end], torch.tensor([start])
        expected = model(*inputs)
        difference = (program(*inputs) - expected).square().mean().sqrt() / expected.std()
        assert float(difference) <= bound


def test_plain_programs_need_no_operator_beyond_the_core_set(tiny_export: Any) -> None:
    content = tiny_export(backend="portable", recipe="plain").program.read_bytes()
    assert b"aten::mm" in content or b"aten::linear" in content
    assert b"llama::" not in content
    assert b"quantized_decomposed::" not in content


def test_weights_that_its_kernels_cannot_read_are_refused() -> None:
    job = ExportJob.create(
        "smollm2", random_weights=True, backend="portable", qmode="torchao:8da4w"
    )
    with pytest.raises(ConfigError, match="low-bit kernels"):
        load("smollm2", "portable").backend.check(job=job)
