"""SmolLM2's 30 layers, of which four are lowered, are those that lowering all of them gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmx.run.runtime import ProgramMethod
from tests.e2e.conftest import Export, llmx
from tests.programs import named_data, payloads, same_but_for_debug_handles

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pair(
    smollm2_export: Export, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The programs with layers repeated and with all of them lowered."""
    folder = tmp_path_factory.mktemp("whole") / "artifact"
    options = ["--checkpoint", str(smollm2_gguf), "--no-replicate", "-o", str(folder)]
    done = llmx("export", "smollm2", "--size", "135m", *options)
    assert done.returncode == 0, done.stderr
    stages = [each["name"] for each in json.loads((folder / "llmx.json").read_text())["stages"]]
    assert "lower" in stages
    assert "repeat layers" not in stages
    return smollm2_export[0] / "model.pte", folder / "model.pte"


def test_payloads_and_weights_are_the_same(pair: tuple[Path, Path]) -> None:
    repeated, whole = (payloads(each) for each in pair)
    assert len(repeated) == len(whole) == 30 + 4
    assert all(
        same_but_for_debug_handles(one, other) for one, other in zip(repeated, whole, strict=True)
    )
    assert named_data(pair[0]) == named_data(pair[1])


def test_outputs_are_the_same_bit_for_bit(pair: tuple[Path, Path]) -> None:
    repeated, whole = (ProgramMethod(each) for each in pair)
    tokens = torch.randint(49152, (1, 40), generator=torch.Generator().manual_seed(2))
    for start, end in ((0, 38), (38, 39), (39, 40)):
        inputs = tokens[:, start:end], torch.tensor([start])
        assert torch.equal(repeated(*inputs), whole(*inputs))
