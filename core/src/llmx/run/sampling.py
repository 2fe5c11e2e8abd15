"""How the next token is chosen from its logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from llmx.errors import UserError

# The nucleus is nearly always among so few; finding them is far quicker than sorting all.
LIKELY = 512


@frozen
class Sampling:
    """What chooses the next token.

    Attributes:
        temperature: 0 takes the most likely token; 1 is the model as trained, more is varied.
        top_p: sample from the fewest tokens that have this probability together
            (https://arxiv.org/abs/1904.09751); 1 is all of them.
        top_k: sample from this many of the most likely tokens; 0 is all of them.
        repetition_penalty: divides the logits of tokens that the text has already, above 1 to
            avoid them (https://arxiv.org/abs/1909.05858); negative ones are multiplied.
        seed: the same one gives the same text; ``None`` gives another one each time.

    Raises:
        UserError: a value out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, value, sound, expected in (
            ("temperature", self.temperature, self.temperature >= 0, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or more"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0"),
        ):
            if not (sound and math.isfinite(value)):
                raise UserError(f"cannot sample with {name} {value}", remedy=f"it is {expected}")

    @classmethod
    def recommended(cls, record: Mapping[str, Any] | None) -> Sampling:
        """What a model's publisher recommends, from ``sampling`` of ``llmx.json``.

        Without a record, or with ``do_sample`` unset, the most likely token is taken.
        """
        found = {key: value for key, value in (record or {}).items() if value is not None}
        penalty = float(found.get("repetition_penalty", 1.0))
        if not found.get("do_sample"):
            return cls(repetition_penalty=penalty)
        return cls(
            temperature=float(found.get("temperature", 1.0)),
            top_p=float(found.get("top_p", 1.0)),
            top_k=int(found.get("top_k", 0)),
            repetition_penalty=penalty,
        )


class Sampler:
    """Chooses the tokens of one text."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            # Any integer will do as a seed, but torch's are of 64 bits.
            self._random.manual_seed(sampling.seed % 2**63)

    def choose(self, logits: Tensor, text: Sequence[int]) -> int:
        """The token that follows ``text``, whose logits [vocab] these are."""
        sampling = self._sampling
        if sampling.repetition_penalty != 1:
            logits = _penalized(logits, text, sampling.repetition_penalty)
        if sampling.temperature == 0:
            return int(logits.argmax())
        logits = logits.float() / sampling.temperature
        tokens: Tensor | None = None
        if 0 < sampling.top_k < len(logits):
            logits, tokens = logits.topk(sampling.top_k)
        if sampling.top_p < 1:
            logits, nucleus = _nucleus(logits, sampling.top_p)
            tokens = nucleus if tokens is None else tokens[nucleus]
        chosen = int(torch.multinomial(logits.softmax(-1), 1, generator=self._random))
        return chosen if tokens is None else int(tokens[chosen])


def _penalized(logits: Tensor, text: Sequence[int], penalty: float) -> Tensor:
    seen = torch.tensor(sorted(set(text)), dtype=torch.int64)
    known = logits[seen]
    changed = logits.clone()
    changed[seen] = torch.where(known > 0, known / penalty, known * penalty)
    return changed


def _nucleus(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The fewest logits whose tokens have the probability ``top_p``, and their indices."""
    total = logits.logsumexp(-1)
    for count in (min(LIKELY, len(logits)), len(logits)):
        best, indices = logits.topk(count)
        reached = (best - total).exp().cumsum(-1)
        if reached[-1] >= top_p:
            break
    kept = int((reached < top_p).sum()) + 1
    return best[:kept], indices[:kept]
