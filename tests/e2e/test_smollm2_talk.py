"""The exported SmolLM2 says the same in ExecuTorch's LLM runner, in our loop and over HTTP."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from llmx.run.engine import Engine
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.sampling import Sampling
from llmx.run.tokenizer import load_tokenizer
from llmx.run.tokens import TokenGenerator
from tests.serving import served

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(smollm2_export: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    return smollm2_export[0]


def test_the_runner_makes_the_same_tokens(folder: Path) -> None:
    info = read_program(folder / "model.pte")
    prompt = load_tokenizer(folder / "tokenizer.json").encode("Once upon a time " * 20)
    runner = Engine(info).generate(
        prompt, max_new_tokens=24, temperature=0.0, on_token=lambda token: None
    )
    ours = TokenGenerator(info).generate(
        prompt,
        max_new_tokens=24,
        sampling=Sampling(),
        on_token=lambda token: False,
        interrupt=Interrupt(),
    )
    assert ours.tokens == runner.tokens
    assert ours.stop_reason == runner.stop_reason


def test_a_conversation_over_http(folder: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    with served(folder, "--name", "smollm2") as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        first = client.chat.completions.create(model="smollm2", messages=messages, temperature=0)
        said = first.choices[0].message.content
        assert said is not None
        assert "Paris" in said
        assert first.choices[0].finish_reason == "stop"
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Why?"}]
        second = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=8)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == first.usage.total_tokens
