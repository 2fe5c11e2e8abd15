"""ExecuTorch's runner gets and gives exact token ids, stops where it should, and stays silent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmx.errors import ArtifactError, UserError
from llmx.run.engine import Engine, Run
from llmx.run.program import read_program
from llmx.run.runtime import ProgramMethod

from .conftest import CHUNK, CONTEXT, END, END_OF_TEXT, VOCAB, Model, build_decoder, write_program

PROMPT = [5, 200, 7, 31, 150]
LONG = [(n * 37) % (VOCAB - 5) + 5 for n in range(3 * CHUNK + 5)]


def generate(engine: Engine, prompt: list[int], **options: Any) -> Run:
    arguments = {
        "max_new_tokens": None, "temperature": 0.0, "on_token": lambda token: None, **options
    }  # fmt: skip
    return engine.generate(prompt, **arguments)


@pytest.fixture
def engine(decoder: Model) -> Engine:
    return Engine(read_program(decoder.program))


@pytest.mark.parametrize("prompt", [[9], PROMPT, LONG], ids=["one token", "short", "chunked"])
def test_the_answer_is_the_eager_models(engine: Engine, decoder: Model, prompt: list[int]) -> None:
    run = generate(engine, prompt, max_new_tokens=12)
    expected = decoder.continue_greedily(prompt, 12)
    assert run.tokens == expected
    assert len(set(expected)) > 3  # else the model would prove little


def test_a_program_without_a_kv_cache_answers_too(decoder: Model, tmp_path: Path) -> None:
    program = write_program(
        tmp_path / "plain.pte", build_decoder(kv_cache=False), use_kv_cache=False
    )
    engine = Engine(read_program(program))
    for _ in range(2):
        run = generate(engine, PROMPT, max_new_tokens=6)
        assert run.tokens == decoder.continue_greedily(PROMPT, 6)
        assert run.prefilled == len(PROMPT)


def test_a_prompt_that_goes_on_is_not_computed_again(engine: Engine, decoder: Model) -> None:
    first = generate(engine, PROMPT, max_new_tokens=8).tokens
    prompt = [*PROMPT, *first, 11, 12, 13]
    second = generate(engine, prompt, max_new_tokens=8)
    assert second.prefilled == 4  # the last token made, and the three new ones
    assert second.tokens == decoder.continue_greedily(prompt, 8)


def test_a_prompt_that_differs_is_computed_anew(engine: Engine, decoder: Model) -> None:
    first = generate(engine, PROMPT, max_new_tokens=8).tokens
    for prompt in ([6, *PROMPT[1:], *first, 11], PROMPT[:2], PROMPT):
        run = generate(engine, prompt, max_new_tokens=8)
        assert run.prefilled == len(prompt)
        assert run.tokens == decoder.continue_greedily(prompt, 8)


@pytest.mark.parametrize("end", [END, END_OF_TEXT])
@pytest.mark.parametrize("answer", [[9, 8, 7], []], ids=["after an answer", "at once"])
def test_it_stops_at_every_end_token(
    recite: Callable[..., Path], end: int, answer: list[int]
) -> None:
    engine = Engine(read_program(recite([*answer, end, 100, 101], after=2)))
    heard: list[int] = []
    run = generate(engine, [5, 6], on_token=heard.append)
    assert (run.tokens, heard, run.stop_reason) == (answer, answer, "end")


def test_it_stops_at_the_given_length(engine: Engine) -> None:
    run = generate(engine, PROMPT, max_new_tokens=1)
    assert len(run.tokens) == 1
    assert run.stop_reason == "max_new_tokens"


def test_it_stops_when_the_context_is_full(recite: Callable[..., Path]) -> None:
    engine = Engine(read_program(recite([9] * (CONTEXT - 3), after=3)))
    run = generate(engine, [5, 6, 7])
    assert run.stop_reason == "context"
    assert len(run.tokens) == CONTEXT - 3


def test_a_prompt_that_fills_the_context_is_refused_with_figures(engine: Engine) -> None:
    with pytest.raises(UserError, match=f"{CONTEXT} tokens .*context is {CONTEXT}") as error:
        generate(engine, [5] * CONTEXT)
    assert "--max-context-length" in str(error.value.remedy)
    assert len(generate(engine, [5] * (CONTEXT - 1)).tokens) == 1


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": 1.1}], ids=str
)
def test_limits_that_make_no_sense_are_refused(engine: Engine, options: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("at", [1, 4], ids=["first token", "later"])
def test_ctrl_c_ends_the_answer_and_the_engine_goes_on(
    engine: Engine, decoder: Model, at: int
) -> None:
    heard: list[int] = []

    def press(token: int) -> None:
        heard.append(token)
        if len(heard) == at:
            signal.raise_signal(signal.SIGINT)

    run = generate(engine, PROMPT, max_new_tokens=40, on_token=press)
    assert run.stop_reason == "interrupted"
    assert run.tokens == heard == decoder.continue_greedily(PROMPT, at)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = [*PROMPT, *heard, 77]
    assert generate(engine, again, max_new_tokens=5).tokens == decoder.continue_greedily(again, 5)


def test_what_the_listener_raises_comes_out_and_the_engine_goes_on(
    engine: Engine, decoder: Model
) -> None:
    def fail(token: int) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        generate(engine, PROMPT, on_token=fail)
    run = generate(engine, PROMPT, max_new_tokens=5)
    assert run.tokens == decoder.continue_greedily(PROMPT, 5)


def test_the_runner_writes_nothing(
    recite: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(read_program(recite([9, 8, END], after=2)))
    generate(engine, [5, 6])
    assert capfd.readouterr() == ("", "")


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
