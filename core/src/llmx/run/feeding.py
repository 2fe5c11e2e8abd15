"""A program's logits for given tokens, call by call, as the runner calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from llmx.config.methods import FORWARD
from llmx.errors import ArtifactError
from llmx.pte import read_contents
from llmx.pte.methods import Tensor as TensorInfo
from llmx.run.runtime import ProgramMethod


class FedProgram:
    """A method of a language model's ``.pte``, fed with pieces of a text.

    Attributes:
        cached: whether it keeps the tokens that it was given; else every call gets all of them.
        longest: most tokens of one call.
        flexible: whether a call may have fewer.
    """

    def __init__(self, path: Path, method: str = FORWARD) -> None:
        """Load the program.

        Raises:
            ArtifactError: it is damaged, or no language model.
        """
        contents = read_contents(path)
        forward = next((each for each in contents.methods if each.name == method), None)
        tokens = forward.inputs[0] if forward is not None and forward.inputs else None
        if forward is None or not isinstance(tokens, TensorInfo) or len(tokens.sizes) != 2:
            raise ArtifactError(
                f"{path} has no method {method} that takes tokens, so it is no language model",
                remedy="llmx inspect shows what is in it",
            )
        self.cached = len(forward.inputs) > 1
        self.longest = tokens.sizes[1]
        self.flexible = tokens.dynamic
        result = forward.outputs[0] if forward.outputs else None
        self._every = isinstance(result, TensorInfo) and len(result.sizes) == 3
        self._method = ProgramMethod(path, method)

    def feed(self, tokens: Sequence[int], start: int = 0) -> Tensor:
        """Logits [vocab] behind ``tokens``, of which the first stands at position ``start``.

        Args:
            tokens: with a cache, one piece of a text; else the whole text.
        """
        return self._call(tokens, start)[-1]

    def vocabulary(self, first: int) -> list[int]:
        """Ids of the tokens that may be said, and so read too; ``first`` is one that is read."""
        said: list[int] = (~self.feed([first]).isneginf()).nonzero().flatten().tolist()
        return said

    def walk(self, tokens: Sequence[int], start: int = 0) -> Iterator[Tensor]:
        """Logits [vocab] behind each token: token by token, unless the program gives all."""
        step = self.longest if self._every and self.flexible else 1
        for at in range(0, len(tokens), step):
            end = min(at + step, len(tokens))
            piece = tokens[at:end] if self.cached else tokens[:end]
            yield from self._call(piece, start + at)[at - end :]

    def read(self, tokens: Sequence[int], start: int = 0) -> Tensor:
        """Logits [vocab] behind the last token, in as few calls as possible."""
        if not self.cached:
            return self.feed(tokens)
        step = self.longest if self.flexible else 1
        for at in range(0, len(tokens), step):
            logits = self.feed(tokens[at : at + step], start + at)
        return logits

    def _call(self, tokens: Sequence[int], start: int) -> Tensor:
        """Logits [1 or S, vocab] in fp32."""
        inputs = torch.tensor([list(tokens)])
        logits = (
            self._method(inputs, torch.tensor([start])) if self.cached else self._method(inputs)
        )
        return logits.float().reshape(-1, logits.shape[-1])
