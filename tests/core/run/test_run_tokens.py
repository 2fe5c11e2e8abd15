"""What only llmx's own loop does: sampling from the first token on, listeners and interrupts."""

from __future__ import annotations

from typing import Any

import pytest

from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.sampling import Sampling
from llmx.run.tokens import Run, TokenGenerator

from .conftest import CHUNK, VOCAB, Model

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


@pytest.mark.parametrize("kept", [1, len(PROMPT), 7], ids=["one", "prompt", "part of the answer"])
def test_what_an_edited_text_has_in_common_is_not_computed_again(
    generator: TokenGenerator, decoder: Model, kept: int
) -> None:
    text = [*PROMPT, *generate(generator, PROMPT, max_new_tokens=8).tokens]
    edited = [*text[:kept], (text[kept] + 1) % VOCAB, 12, 13]
    run = generate(generator, edited, max_new_tokens=8)
    assert run.prefilled == 3
    assert run.tokens == decoder.continue_greedily(edited, 8)


def test_the_same_prompt_again_costs_one_token(generator: TokenGenerator) -> None:
    first = generate(generator, LONG, max_new_tokens=4)
    again = generate(generator, LONG, max_new_tokens=4)
    assert (again.prefilled, again.tokens) == (1, first.tokens)


def test_the_listener_ends_the_run(generator: TokenGenerator, decoder: Model) -> None:
    heard: list[int] = []

    def hear(token: int) -> bool:
        heard.append(token)
        return len(heard) == 3

    run = generate(generator, PROMPT, on_token=hear)
    assert run.stop_reason == "stop"
    assert run.tokens == heard == decoder.continue_greedily(PROMPT, 3)


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
