"""A tiny model with checkpoint and tokenizer, exported exactly and quantized."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmx.artifact import Artifact
from llmx.cli import invoke
from llmx.plugins import load
from llmx.testing.reference import hf_fields, random_model, save_checkpoint, shrink

FAMILY, MODEL_TYPE = "smollm2", "llama"
BOS, EOS = 256, (257, 258)
CONTEXT = 96


def save_tiny(folder: Path, *, scale: float = 1.0) -> Path:
    """A checkpoint of random weights; ``scale`` makes it another model of the same shapes."""
    tiny = shrink(load(FAMILY, None).family.default_params(size=None), n_layers=2)
    model = random_model(MODEL_TYPE, hf_fields(tiny))
    for name, parameter in model.named_parameters():
        if "down_proj" in name:
            parameter.data.mul_(scale)
    save_checkpoint(model, folder, eos=EOS, bos=BOS)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("trust") / "checkpoint")


def _export(checkpoint: Path, name: str, *words: str) -> Artifact:
    folder = checkpoint.parent / name
    lengths = ["--max-seq-length", str(CONTEXT), "--max-context-length", str(CONTEXT)]
    command = ["export", FAMILY, "--checkpoint", str(checkpoint), "-o", str(folder), *lengths]
    assert invoke([*command, *words, "--quiet", "--debug"]) == 0
    return Artifact.open(folder)


@pytest.fixture(scope="session")
def exact(checkpoint: Path) -> Artifact:
    return _export(checkpoint, "exact", "--quantize", "none")


@pytest.fixture(scope="session")
def quantized(checkpoint: Path) -> Artifact:
    return _export(checkpoint, "quantized", "--quantize", "8da4w")


@pytest.fixture(scope="session")
def endless(checkpoint: Path) -> Artifact:
    """The first 3 tokens of a text and the last 12, in calls of up to 8."""
    words = ["model.use_attention_sink=3,12", "--max-seq-length", "8"]
    return _export(checkpoint, "endless", "--quantize", "none", *words)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Artifact], Artifact]:
    """A copy to damage."""

    def copy(artifact: Artifact) -> Artifact:
        return Artifact.open(Path(shutil.copytree(artifact.folder, tmp_path / "copy")))

    return copy
