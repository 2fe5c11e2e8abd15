"""Token ids that a program makes are the model's, end where they should, and are never lost."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmx.errors import UserError
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.sampling import Sampling
from llmx.run.tokens import Run, TokenGenerator

from .conftest import CHUNK, CONTEXT, END, END_OF_TEXT, VOCAB, Model, build_decoder, write_program

PROMPT = [5, 200, 7, 31, 150]
LONG = [(n * 37) % (VOCAB - 5) + 5 for n in range(3 * CHUNK + 5)]


def generate(generator: TokenGenerator, prompt: list[int], **options: Any) -> Run:
    arguments = {
        "max_new_tokens": None,
        "sampling": Sampling(),
        "on_token": lambda token: False,
        "interrupt": Interrupt(),
        **options,
    }
    return generator.generate(prompt, **arguments)


@pytest.fixture
def generator(decoder: Model) -> TokenGenerator:
    return TokenGenerator(read_program(decoder.program))


@pytest.mark.parametrize("prompt", [[9], PROMPT, LONG], ids=["one token", "short", "chunked"])
def test_the_answer_is_the_eager_models(
    generator: TokenGenerator, decoder: Model, prompt: list[int]
) -> None:
    run = generate(generator, prompt, max_new_tokens=12)
    expected = decoder.continue_greedily(prompt, 12)
    assert run.tokens == expected
    assert len(set(expected)) > 3  # else the model would prove little


def test_a_program_without_a_kv_cache_answers_too(decoder: Model, tmp_path: Path) -> None:
    program = write_program(
        tmp_path / "plain.pte", build_decoder(kv_cache=False), use_kv_cache=False
    )
    generator = TokenGenerator(read_program(program))
    for _ in range(2):
        run = generate(generator, PROMPT, max_new_tokens=6)
        assert run.tokens == decoder.continue_greedily(PROMPT, 6)
        assert run.prefilled == len(PROMPT)


def test_a_prompt_that_goes_on_is_not_computed_again(
    generator: TokenGenerator, decoder: Model
) -> None:
    first = generate(generator, PROMPT, max_new_tokens=8).tokens
    prompt = [*PROMPT, *first, 11, 12, 13]
    second = generate(generator, prompt, max_new_tokens=8)
    assert second.prefilled == 4  # the last token made, and the three new ones
    assert second.tokens == decoder.continue_greedily(prompt, 8)


def test_a_prompt_that_differs_is_computed_anew(generator: TokenGenerator, decoder: Model) -> None:
    first = generate(generator, PROMPT, max_new_tokens=8).tokens
    for prompt in ([6, *PROMPT[1:], *first, 11], PROMPT[:2], PROMPT):
        run = generate(generator, prompt, max_new_tokens=8)
        assert run.prefilled == len(prompt)
        assert run.tokens == decoder.continue_greedily(prompt, 8)


@pytest.mark.parametrize("end", [END, END_OF_TEXT])
@pytest.mark.parametrize("answer", [[9, 8, 7], []], ids=["after an answer", "at once"])
def test_it_stops_at_every_end_token(
    recite: Callable[..., Path], end: int, answer: list[int]
) -> None:
    generator = TokenGenerator(read_program(recite([*answer, end, 100, 101], after=2)))
    heard: list[int] = []
    run = generate(generator, [5, 6], on_token=lambda token: bool(heard.append(token)))
    assert (run.tokens, heard, run.stop_reason) == (answer, answer, "end")


def test_it_stops_at_the_given_length(generator: TokenGenerator) -> None:
    run = generate(generator, PROMPT, max_new_tokens=1)
    assert len(run.tokens) == 1
    assert run.stop_reason == "max_new_tokens"


def test_it_stops_when_the_context_is_full(recite: Callable[..., Path]) -> None:
    generator = TokenGenerator(read_program(recite([9] * (CONTEXT - 3), after=3)))
    run = generate(generator, [5, 6, 7])
    assert run.stop_reason == "context"
    assert len(run.tokens) == CONTEXT - 3


def test_a_prompt_that_fills_the_context_is_refused_with_figures(generator: TokenGenerator) -> None:
    with pytest.raises(UserError, match=f"{CONTEXT} tokens .*context is {CONTEXT}") as error:
        generate(generator, [5] * CONTEXT)
    assert "--max-context-length" in str(error.value.remedy)
    assert len(generate(generator, [5] * (CONTEXT - 1)).tokens) == 1


def test_a_limit_that_makes_no_sense_is_refused(generator: TokenGenerator) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        generate(generator, PROMPT, max_new_tokens=0)


def test_sampling_varies_unless_it_is_seeded(generator: TokenGenerator) -> None:
    def answers(sampling: Sampling) -> set[tuple[int, ...]]:
        runs = (generate(generator, PROMPT, max_new_tokens=8, sampling=sampling) for _ in range(6))
        return {tuple(run.tokens) for run in runs}

    assert len(answers(Sampling())) == 1
    assert len(answers(Sampling(temperature=1.0))) > 1
    assert len(answers(Sampling(temperature=1.0, seed=7))) == 1


def test_the_first_token_is_sampled_too(generator: TokenGenerator) -> None:
    firsts = {
        generate(
            generator, PROMPT, max_new_tokens=1, sampling=Sampling(temperature=3.0, seed=seed)
        ).tokens[0]
        for seed in range(12)
    }
    assert len(firsts) > 1


def test_the_listener_ends_the_run(generator: TokenGenerator, decoder: Model) -> None:
    heard: list[int] = []

    def hear(token: int) -> bool:
        heard.append(token)
        return len(heard) == 3

    run = generate(generator, PROMPT, on_token=hear)
    assert run.stop_reason == "stop"
    assert run.tokens == heard == decoder.continue_greedily(PROMPT, 3)


@pytest.mark.parametrize("at", [1, 4], ids=["first token", "later"])
def test_ctrl_c_ends_the_answer_and_the_generator_goes_on(
    generator: TokenGenerator, decoder: Model, at: int
) -> None:
    heard: list[int] = []

    def press(token: int) -> bool:
        heard.append(token)
        if len(heard) == at:
            signal.raise_signal(signal.SIGINT)
        return False

    run = generate(generator, PROMPT, max_new_tokens=40, on_token=press)
    assert run.stop_reason == "interrupted"
    assert run.tokens == heard == decoder.continue_greedily(PROMPT, at)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = [*PROMPT, *heard, 77]
    assert generate(generator, again, max_new_tokens=5).tokens == decoder.continue_greedily(
        again, 5
    )


def test_what_the_listener_raises_comes_out_and_the_generator_goes_on(
    generator: TokenGenerator, decoder: Model
) -> None:
    def fail(token: int) -> bool:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        generate(generator, PROMPT, on_token=fail)
    run = generate(generator, PROMPT, max_new_tokens=5)
    assert run.tokens == decoder.continue_greedily(PROMPT, 5)


def test_a_prompt_is_interrupted_between_its_pieces(
    generator: TokenGenerator, decoder: Model
) -> None:
    assert len(LONG) > CHUNK
    interrupt = Interrupt()
    interrupt.request()
    run = generate(generator, LONG, interrupt=interrupt)
    assert (run.tokens, run.stop_reason) == ([], "interrupted")
    assert run.prefill_seconds == run.decode_seconds == 0
    assert generate(generator, LONG, max_new_tokens=4).tokens == decoder.continue_greedily(LONG, 4)


def test_nothing_is_written(recite: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    generator = TokenGenerator(read_program(recite([9, 8, END], after=2)))
    generate(generator, [5, 6])
    assert capfd.readouterr() == ("", "")
