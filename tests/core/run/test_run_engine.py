"""What is special about ExecuTorch's runner, and about programs that it would not survive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmx.errors import ArtifactError, UserError
from llmx.run.engine import Engine, Run
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod

from .conftest import END, Model

PROMPT = [5, 200, 7, 31, 150]


def generate(engine: Engine, prompt: list[int], **options: Any) -> Run:
    arguments = {
        "max_new_tokens": None, "temperature": 0.0, "on_token": lambda token: None, **options
    }  # fmt: skip
    return engine.generate(prompt, **arguments)


@pytest.fixture
def engine(decoder: Model) -> Engine:
    return Engine(read_program(decoder.program))


@pytest.mark.parametrize("options", [{"temperature": -0.1}, {"temperature": 1.1}], ids=str)
def test_a_temperature_that_the_runner_cannot_have_is_refused(
    engine: Engine, options: dict[str, Any]
) -> None:
    with pytest.raises(UserError):
        generate(engine, PROMPT, **options)


def test_sampling_varies_and_greedy_does_not(engine: Engine) -> None:
    def answers(temperature: float) -> set[tuple[int, ...]]:
        runs = (
            generate(engine, PROMPT, max_new_tokens=8, temperature=temperature) for _ in range(6)
        )
        return {tuple(run.tokens) for run in runs}

    assert len(answers(0.0)) == 1
    assert len(answers(1.0)) > 1


def test_a_program_of_another_kind_is_refused(recite: Callable[..., Path]) -> None:
    import torch

    from llmx.lower.program import default_program_config, finish, lower

    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    path = recite([END], after=1)
    exported = torch.export.export(Doubling(), (torch.zeros(2),))
    path.write_bytes(finish(lower(exported, [], [], {}), default_program_config()).buffer)
    with pytest.raises(ArtifactError, match="no method get_max_seq_len"):
        read_program(path)


@pytest.mark.parametrize("damage", ["empty", "other file", "truncated", "overwritten"])
def test_a_damaged_program_is_refused_before_it_crashes_the_runner(
    damage: str, decoder: Model, tmp_path: Path
) -> None:
    content = bytearray(decoder.program.read_bytes())
    if damage == "overwritten":
        content[64:2000] = bytes(255 - byte for byte in content[64:2000])
    path = tmp_path / "model.pte"
    path.write_bytes(
        {
            "empty": b"",
            "other file": b"\x80\x81\x82\x83\x9a\x9b\x9c\x9d" * 400,
            "truncated": bytes(content[: len(content) // 2]),
            "overwritten": bytes(content),
        }[damage]
    )
    for load in (read_program, ProgramMethod):
        with pytest.raises(ArtifactError, match=r"model\.pte"):
            load(path)
