"""Tiny programs: exported as users do, run by ExecuTorch's runtime and its LLM runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmx.artifact import Artifact
from llmx.cli import invoke
from llmx.plugins import load
from llmx.run.runtime import ProgramMethod, register_operators

EOS = (257, 258)
ENDING_PROMPTS = ("a", "b")  # one for each end token
MIDDLE = ("A", "B")  # the runner does not look for the end in the first token that it makes
ENDLESS_PROMPT, ENDLESS_TOKEN = "c", "d"
MAX_NEW_TOKENS = 8
CONTEXT = 48


def export_tiny(family: str, checkpoint: Path, output: Path) -> Artifact:
    """Export without quantization by the command line, through the family's default backend.

    Skips the test if this machine cannot run what that backend produces.
    """
    backend = load(family, None).family.default_backend()
    reason = load(None, backend).backend.runtime()
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    command = ["export", family, "--checkpoint", str(checkpoint), "--output", str(output)]
    lengths = ["--max-seq-length", str(CONTEXT), "--max-context-length", str(CONTEXT)]
    # With --debug errors are raised.
    assert invoke([*command, *lengths, "--quantize", "none", "--quiet", "--debug"]) == 0
    return Artifact.open(output)


def program_logits(path: Path, tokens: Tensor, *, pieces: list[int]) -> tuple[list[int], Tensor]:
    """Feed tokens [1, S] in pieces of these lengths.

    Returns:
        The position of each piece's last token, and the logits there [pieces, vocab].
    """
    method = ProgramMethod(path)
    ends: list[int] = []
    outputs = []
    start = 0
    for length in pieces:
        outputs.append(method(tokens[:, start : start + length], torch.tensor([start]))[0])
        start += length
        ends.append(start - 1)
    return ends, torch.stack(outputs)


@torch.no_grad()
def rigged(model: Any) -> Any:
    """The same model, changed so that what it says next depends on the last token alone.

    Each of ``ENDING_PROMPTS`` is followed by its ``MIDDLE`` and that by its end token, while
    ``ENDLESS_PROMPT`` is followed by a token that repeats forever: a token is followed by the one
    whose embedding goes furthest in its own direction. Attention and feed-forward add nothing.
    """
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if parameter.ndim == 1 and "norm" in name else 0.0)
    torch.nn.init.normal_(embedding, std=0.01)
    vectors = {_token(ENDLESS_PROMPT): {0: 1.0}, _token(ENDLESS_TOKEN): {0: 3.0}}
    for index, (prompt, middle, eos) in enumerate(zip(ENDING_PROMPTS, MIDDLE, EOS, strict=True)):
        first, second = 2 * index + 1, 2 * index + 2
        vectors[_token(prompt)] = {first: 1.0}
        vectors[_token(middle)] = {first: 2.0, second: 2.0}
        vectors[eos] = {second: 5.0}
    for token, vector in vectors.items():
        embedding[token] = 0.0
        for axis, length in vector.items():
            embedding[token, axis] = length
    head.copy_(embedding)
    return model


def check_stops(artifact: Artifact) -> None:
    """Each end token ends the text; without one it goes on to its limit."""
    runner = _runner(artifact)
    spoken = _generate(runner, ENDLESS_PROMPT)
    assert spoken.count(ENDLESS_TOKEN) >= MAX_NEW_TOKENS - 1, spoken
    for prompt, middle, eos in zip(ENDING_PROMPTS, MIDDLE, EOS, strict=True):
        spoken = _generate(runner, prompt)
        # The runner may show the end token itself.
        assert spoken in (middle, f"{middle}<|{eos}|>"), f"{spoken!r} does not end at {eos}"


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
