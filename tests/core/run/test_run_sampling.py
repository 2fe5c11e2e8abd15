"""Tokens are drawn from the distribution that the options describe."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from llmx.errors import UserError
from llmx.run.sampling import LIKELY, Sampler, Sampling

PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])
LOGITS = PROBABILITIES.log()


def drawn(logits: torch.Tensor = LOGITS, count: int = 2000, **options: Any) -> Counter[int]:
    sampler = Sampler(Sampling(**{"temperature": 1.0, "seed": 1, **options}))
    return Counter(sampler.choose(logits, []) for _ in range(count))


def test_temperature_zero_takes_the_most_likely() -> None:
    assert set(drawn(temperature=0.0)) == {1}


def test_temperature_one_is_the_models_distribution() -> None:
    counts = drawn()
    for token, probability in enumerate(PROBABILITIES.tolist()):
        assert counts[token] / 2000 == pytest.approx(probability, abs=0.04)


def test_a_high_temperature_evens_out_and_a_low_one_sharpens() -> None:
    assert drawn(temperature=5.0)[0] > drawn()[0] > drawn(temperature=0.3)[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.4}, {1}),
        ({"top_p": 0.75}, {1, 3}),
        ({"top_p": 0.9}, {1, 2, 3}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        # The probability is of what top_k leaves: 0.5 / 0.8.
        ({"top_k": 2, "top_p": 0.6}, {1}),
    ],
    ids=str,
)
def test_only_likely_tokens_are_drawn(options: dict[str, Any], expected: set[int]) -> None:
    assert set(drawn(**options)) == expected


def test_a_nucleus_may_have_many_tokens() -> None:
    flat = torch.zeros(4 * LIKELY)
    assert len(drawn(flat, count=20_000, top_p=0.75)) == pytest.approx(3 * LIKELY, rel=0.02)


def test_a_repeated_token_is_penalized() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0))
    assert sampler.choose(torch.tensor([3.0, 4.0, 1.0]), [1, 1]) == 0
    assert sampler.choose(torch.tensor([-3.0, -2.0, -5.0]), [1]) == 0
    assert sampler.choose(torch.tensor([3.0, 4.0, 1.0]), [2]) == 1


def test_the_penalty_is_that_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    from llmx.run.sampling import _penalized

    logits, text = torch.randn(50), [3, 3, 17, 40]
    reference = RepetitionPenaltyLogitsProcessor(penalty=1.3)
    expected = reference(torch.tensor([text]), logits[None].clone())[0]
    torch.testing.assert_close(_penalized(logits, text, 1.3), expected)


def test_a_seed_repeats_the_draws_and_another_does_not() -> None:
    def text(seed: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS, []) for _ in range(30)]

    assert text(5) == text(5)
    assert text(5) != text(6)
    assert text(-(2**70)) == text(-(2**70))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Sampling(**options)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, Sampling()),
        ({"do_sample": False, "temperature": 0.7}, Sampling()),
        ({"do_sample": True, "temperature": 0.7}, Sampling(temperature=0.7)),
        ({"do_sample": True}, Sampling(temperature=1.0)),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
            Sampling(temperature=0.7, top_p=0.8, top_k=20),
        ),
        ({"repetition_penalty": 1.05}, Sampling(repetition_penalty=1.05)),
    ],
)
def test_the_publishers_recommendation_is_understood(
    record: dict[str, Any] | None, expected: Sampling
) -> None:
    assert Sampling.recommended(record) == expected
