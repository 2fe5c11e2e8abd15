"""Tiny models that end their texts by themselves, and whether the runner ends there too."""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from attrs import frozen

from llmx.artifact import Artifact
from llmx.run.runtime import register_operators

LETTERS = string.ascii_letters
MAX_NEW_TOKENS = 8


@frozen
class Endings:
    """What a model says to some prompts, and the tokens that are declared to end a text.

    Attributes:
        eos: two ids, letters of the tokenizer that ``reference.write_tokenizer`` writes.
        answers: prompt to the text up to the first of ``eos``; one for each of them, and one of
            ``MAX_NEW_TOKENS`` letters that neither ends.
    """

    eos: tuple[int, ...]
    answers: Mapping[str, str]


@torch.no_grad()
def make_it_spell(model: Any) -> None:
    """Let every token that the model says be a letter, which the runner can print.

    The logits of the others become small, not zero: they still have to be right.
    """
    head = model.get_output_embeddings().weight
    spoken = [_token(letter) for letter in LETTERS]
    others = [token for token in range(head.shape[0]) if token not in spoken]
    head[others] *= 0.1


def choose_endings(model: Any) -> Endings:
    """Declare two tokens that the model says by itself to be end tokens."""
    said = _continuations(model)
    for (first, one), (second, other) in itertools.permutations(said.items(), 2):
        for eos in itertools.product(_possible_ends(one), _possible_ends(other)):
            cut = one[: _end(one, eos)], other[: _end(other, eos)]
            endless = [prompt for prompt, answer in said.items() if not set(eos) & set(answer)]
            if endless and (one[len(cut[0])], other[len(cut[1])]) == eos and eos[0] != eos[1]:
                answers = {first: cut[0], second: cut[1], endless[0]: said[endless[0]]}
                return Endings(eos, {key: _text(tokens) for key, tokens in answers.items()})
    raise AssertionError("this random model says nothing that could end its texts")


def check_endings(artifact: Artifact, endings: Endings) -> None:
    """ExecuTorch's runner says what the model says and stops at each end token."""
    runner = _runner(artifact)
    for prompt, expected in endings.answers.items():
        spoken = _generate(runner, prompt)
        # The runner may show the end token itself, and takes the prompt's into its count.
        accepted = {expected, *(expected + _text([end]) for end in endings.eos)}
        if len(expected) == MAX_NEW_TOKENS:
            accepted = {expected, expected[:-1]}
        assert spoken in accepted, f"{spoken!r} after {prompt!r}, expected {expected!r}"


@torch.no_grad()
def _continuations(model: Any) -> dict[str, list[int]]:
    """The most likely tokens after each letter, computed from scratch for every token."""
    tokens = torch.tensor([[_token(letter)] for letter in LETTERS])
    for _ in range(MAX_NEW_TOKENS):
        following = model(tokens).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, following], dim=1)
    return dict(zip(LETTERS, tokens[:, 1:].tolist(), strict=True))


def _possible_ends(answer: list[int]) -> list[int]:
    """Tokens that are new when they come; the runner does not look for the end in the first."""
    return [token for at, token in enumerate(answer) if at and token not in answer[:at]]


def _end(answer: list[int], eos: tuple[int, ...]) -> int:
    """Where the first end token is."""
    return next(at for at, token in enumerate(answer) if token in eos)


def _text(tokens: Sequence[int]) -> str:
    letters = {_token(letter): letter for letter in LETTERS}
    return "".join(letters[token] for token in tokens)


@cache
def _token(character: str) -> int:
    """The id of a letter in the tokenizer that ``reference.write_tokenizer`` writes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)


def _runner(artifact: Artifact) -> Any:
    register_operators()
    from executorch.extension.llm.runner import TextLLMRunner

    return TextLLMRunner(str(artifact.program), str(artifact.tokenizer))


def _generate(runner: Any, prompt: str) -> str:
    from executorch.extension.llm.runner import GenerationConfig

    pieces: list[str] = []
    runner.reset()
    config = GenerationConfig(max_new_tokens=MAX_NEW_TOKENS, temperature=0.0, echo=False)
    runner.generate(prompt, config, pieces.append, lambda stats: None)
    return "".join(pieces)
