"""What both ways to make tokens promise: llmx's own loop, and ExecuTorch's runner."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from llmx.errors import UserError
from llmx.run.engine import Engine
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.sampling import Sampling
from llmx.run.tokens import Run, TokenGenerator

from .conftest import CHUNK, CONTEXT, END, END_OF_TEXT, VOCAB, Model, build_decoder, write_program

PROMPT = [5, 200, 7, 31, 150]
LONG = [(n * 37) % (VOCAB - 5) + 5 for n in range(3 * CHUNK + 5)]


class Loop(Protocol):
    def __call__(
        self,
        prompt: list[int],
        max_new_tokens: int | None = None,
        on_token: Callable[[int], Any] = lambda token: None,
    ) -> Run: ...


def own_loop(program: Path) -> Loop:
    generator = TokenGenerator(read_program(program))

    def generate(
        prompt: list[int],
        max_new_tokens: int | None = None,
        on_token: Callable[[int], Any] = lambda token: None,
    ) -> Run:
        return generator.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=Sampling(),
            on_token=lambda token: bool(on_token(token)),
            interrupt=Interrupt(),
        )

    return generate


def runner_loop(program: Path) -> Loop:
    engine = Engine(read_program(program))

    def generate(
        prompt: list[int],
        max_new_tokens: int | None = None,
        on_token: Callable[[int], Any] = lambda token: None,
    ) -> Run:
        return engine.generate(
            prompt, max_new_tokens=max_new_tokens, temperature=0.0, on_token=on_token
        )

    return generate


@pytest.fixture(params=[own_loop, runner_loop], ids=["own loop", "runner"])
def opened(request: pytest.FixtureRequest) -> Callable[[Path], Loop]:
    """Opens a program in one of them."""
    way: Callable[[Path], Loop] = request.param
    return way


@pytest.fixture
def generate(opened: Callable[[Path], Loop], decoder: Model) -> Loop:
    return opened(decoder.program)


@pytest.mark.parametrize("prompt", [[9], PROMPT, LONG], ids=["one token", "short", "chunked"])
def test_the_answer_is_the_eager_models(generate: Loop, decoder: Model, prompt: list[int]) -> None:
    run = generate(prompt, max_new_tokens=12)
    expected = decoder.continue_greedily(prompt, 12)
    assert run.tokens == expected
    assert len(set(expected)) > 3  # else the model would prove little


def test_a_program_without_a_kv_cache_answers_too(
    opened: Callable[[Path], Loop], decoder: Model, tmp_path: Path
) -> None:
    program = write_program(
        tmp_path / "plain.pte", build_decoder(kv_cache=False), use_kv_cache=False
    )
    generate = opened(program)
    for _ in range(2):
        run = generate(PROMPT, max_new_tokens=6)
        assert run.tokens == decoder.continue_greedily(PROMPT, 6)
        assert run.prefilled == len(PROMPT)


def test_a_prompt_that_goes_on_is_not_computed_again(generate: Loop, decoder: Model) -> None:
    first = generate(PROMPT, max_new_tokens=8).tokens
    prompt = [*PROMPT, *first, 11, 12, 13]
    second = generate(prompt, max_new_tokens=8)
    assert second.prefilled == 4  # the last token made, and the three new ones
    assert second.tokens == decoder.continue_greedily(prompt, 8)


def test_a_prompt_that_differs_gets_its_own_answer(generate: Loop, decoder: Model) -> None:
    first = generate(PROMPT, max_new_tokens=8).tokens
    for prompt in ([6, *PROMPT[1:], *first, 11], PROMPT[:2], PROMPT, [*PROMPT[:3], 9, 9]):
        run = generate(prompt, max_new_tokens=8)
        assert run.tokens == decoder.continue_greedily(prompt, 8)


@pytest.mark.parametrize("end", [END, END_OF_TEXT])
@pytest.mark.parametrize("answer", [[9, 8, 7], []], ids=["after an answer", "at once"])
def test_it_stops_at_every_end_token(
    opened: Callable[[Path], Loop], recite: Callable[..., Path], end: int, answer: list[int]
) -> None:
    generate = opened(recite([*answer, end, 100, 101], after=2))
    heard: list[int] = []
    run = generate([5, 6], on_token=heard.append)
    assert (run.tokens, heard, run.stop_reason) == (answer, answer, "end")


def test_it_stops_at_the_given_length(generate: Loop) -> None:
    run = generate(PROMPT, max_new_tokens=1)
    assert len(run.tokens) == 1
    assert run.stop_reason == "max_new_tokens"


def test_it_stops_when_the_context_is_full(
    opened: Callable[[Path], Loop], recite: Callable[..., Path]
) -> None:
    run = opened(recite([9] * (CONTEXT - 3), after=3))([5, 6, 7])
    assert run.stop_reason == "context"
    assert len(run.tokens) == CONTEXT - 3


def test_a_prompt_that_fills_the_context_is_refused_with_figures(generate: Loop) -> None:
    with pytest.raises(UserError, match=f"{CONTEXT} tokens .*context is {CONTEXT}") as error:
        generate([5] * CONTEXT)
    assert "--max-context-length" in str(error.value.remedy)
    assert len(generate([5] * (CONTEXT - 1)).tokens) == 1


def test_a_limit_that_makes_no_sense_is_refused(generate: Loop) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        generate(PROMPT, max_new_tokens=0)


@pytest.mark.parametrize("at", [1, 4], ids=["first token", "later"])
def test_ctrl_c_ends_the_answer_and_the_next_one_is_right(
    generate: Loop, decoder: Model, at: int
) -> None:
    heard: list[int] = []

    def press(token: int) -> None:
        heard.append(token)
        if len(heard) == at:
            signal.raise_signal(signal.SIGINT)

    run = generate(PROMPT, max_new_tokens=40, on_token=press)
    assert run.stop_reason == "interrupted"
    assert run.tokens == heard == decoder.continue_greedily(PROMPT, at)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = [*PROMPT, *heard, 77]
    assert generate(again, max_new_tokens=5).tokens == decoder.continue_greedily(again, 5)


def test_what_the_listener_raises_comes_out_and_the_next_answer_is_right(
    generate: Loop, decoder: Model
) -> None:
    def fail(token: int) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        generate(PROMPT, on_token=fail)
    run = generate(PROMPT, max_new_tokens=5)
    assert run.tokens == decoder.continue_greedily(PROMPT, 5)


def test_nothing_is_written(
    opened: Callable[[Path], Loop],
    recite: Callable[..., Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    opened(recite([9, 8, END], after=2))([5, 6])
    assert capfd.readouterr() == ("", "")
