"""When the model fails, clients learn that it did, and whoever runs the server learns why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from llmx.errors import LlmxError
from llmx.run.generate import TextGenerator
from llmx.serve.app import Served, create_app
from llmx.serve.turns import Turns

from .conftest import END, TEMPLATE, VOCAB, write_program

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Forgetful(torch.nn.Module):
    """Has an answer to a prompt of one token only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.nn.functional.one_hot(torch.tensor([END]), VOCAB) * 1.0)

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor) -> torch.Tensor:
        return self.table[input_pos + torch.ones_like(tokens).sum(1) - 1]


@pytest.fixture(scope="module")
def complaints() -> list[LlmxError]:
    return []


@pytest.fixture(scope="module")
def client(folder: Path, tokenizer_file: Path, complaints: list[LlmxError]) -> Iterator[TestClient]:
    program = write_program(folder / "forgetful.pte", Forgetful())
    served = Served(
        model=TextGenerator(program, tokenizer_file, template=TEMPLATE),
        name="m",
        created=0,
        most_new_tokens=None,
        report=lambda generation: None,
        complain=complaints.append,
    )
    app = create_app(served, Turns(1), hosts=None, api_key=None)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_fails(
    client: TestClient, complaints: list[LlmxError], folder: Path, stream: bool
) -> None:
    complaints.clear()
    answer = client.post("/v1/chat/completions", json={**HELLO, "stream": stream})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["message"], error["type"]) == ("the model failed on this prompt", "server_error")
    (complaint,) = complaints
    assert "the runtime failed" in complaint.message
    assert client.get("/v1/models").status_code == 200


def test_a_prompt_that_the_model_can_answer_is_answered_after_it(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "m", "prompt": "x"})
    assert answer.status_code == 200
    assert answer.json()["choices"][0] == {
        "text": "", "index": 0, "logprobs": None, "finish_reason": "stop",
    }  # fmt: skip
