"""Token ids from an exported model: prefill, decoding, and what its KV cache holds meanwhile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor

from llmx.errors import UserError
from llmx.run.interrupt import Interrupt, deferred_interrupt
from llmx.run.program import ProgramInfo
from llmx.run.runtime import ProgramMethod
from llmx.run.sampling import Sampler, Sampling

# Nothing else in the process runs during a call of the program, and no call can be interrupted.
# Longer pieces of a prompt were not faster.
LONGEST_CALL = 64
StopReason = Literal["end", "stop", "max_new_tokens", "context", "interrupted"]


class PromptTooLongError(UserError):
    """The prompt fills the context."""


@frozen
class Run:
    """One run of the model.

    Attributes:
        tokens: what it made, without the token that ended it.
        stop_reason: ``end`` is the model's own end token, ``stop`` the listener's wish.
        prefilled: how many tokens of the prompt were new to the KV cache.
        prefill_seconds: from the start to the first token; 0 if none came.
        decode_seconds: for the ``decoded`` tokens after the first one.
    """

    tokens: list[int]
    stop_reason: StopReason
    prefilled: int
    prefill_seconds: float
    decoded: int
    decode_seconds: float


def room_for_answer(program: ProgramInfo, prompt: Sequence[int], max_new_tokens: int | None) -> int:
    """How many tokens the context has left after ``prompt``.

    Raises:
        UserError: the prompt is empty, or the limit on new tokens makes no sense.
        PromptTooLongError: the prompt fills the context.
    """
    if not prompt:
        raise UserError("the prompt is empty", remedy="say something")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UserError(f"cannot make {max_new_tokens} tokens", remedy="ask for at least one")
    length = program.max_context_length
    if len(prompt) >= length:
        raise PromptTooLongError(
            f"the prompt has {len(prompt)} tokens and leaves no room for an answer: "
            f"this program's context is {length} tokens",
            remedy="shorten it, begin anew, or export with a larger --max-context-length",
        )
    return length - len(prompt)


class TokenGenerator:
    """A program in ExecuTorch's runtime.

    It is called as ExecuTorch's LLM runner calls it, but tokens are chosen here: the runner knows
    neither nucleus nor seed, always takes the most likely first token, and cannot be stopped
    before that. Its speed is the same within a few percent.
    """

    def __init__(self, program: ProgramInfo) -> None:
        """Load the program with its weights and run it once.

        Raises:
            ArtifactError: the runtime refuses it.
            LlmxError: it failed; this machine may lack the program's backend.
        """
        self.program = program
        method = ProgramMethod(program.path, program.method)
        self._model = _Remembering(method, program) if program.kv_cache else _Forgetful(method)
        # The first call is slower, which would spoil the figures of the first answer.
        text = [program.any_token]
        self._model.begin(text)
        self._model.logits(text, Interrupt())
        self._model.begin([])

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int | None,
        sampling: Sampling,
        on_token: Callable[[int], bool],
        interrupt: Interrupt,
    ) -> Run:
        """Continue ``prompt``, which is the whole text so far.

        What the KV cache already holds of it is not computed again. Ctrl-C requests ``interrupt``
        meanwhile, which ends the run after the call at hand.

        Args:
            max_new_tokens: ``None`` goes on to the model's end token or the end of the context.
            on_token: called with each new id but the end token; ``True`` ends the run.

        Raises:
            UserError: the prompt is empty, or a limit makes no sense.
            PromptTooLongError: the prompt fills the context.
            LlmxError: the program failed.
        """
        room = room_for_answer(self.program, prompt, max_new_tokens)
        limit = room if max_new_tokens is None else min(room, max_new_tokens)
        sampler = Sampler(sampling)
        text = list(prompt)
        prefilled = len(text) - self._model.begin(text)
        clock = _Clock()
        reason: StopReason | None = None
        with deferred_interrupt(interrupt):
            while reason is None:
                logits = self._model.logits(text, interrupt)
                if logits is None:
                    reason = "interrupted"
                    break
                token = sampler.choose(logits, text)
                clock.tick()
                if token in self.program.eos_ids:
                    reason = "end"
                    break
                text.append(token)
                if on_token(token):
                    reason = "stop"
                elif len(text) - len(prompt) == limit:
                    reason = "max_new_tokens" if limit < room else "context"
        return Run(
            tokens=text[len(prompt) :],
            stop_reason=reason,
            prefilled=prefilled,
            prefill_seconds=clock.first,
            decoded=max(clock.ticks - 1, 0),
            decode_seconds=clock.rest,
        )


class _Remembering:
    """A program with a KV cache: ``forward(tokens [1, S], input_pos [1])``."""

    def __init__(self, method: ProgramMethod, program: ProgramInfo) -> None:
        self._method = method
        self._prefill = method if program.prefill is None else method.beside(program.prefill)
        self._piece = program.prefill_length
        self._longest = min(program.max_seq_length, LONGEST_CALL) if program.dynamic else 1
        self._rewinds = program.rewinds
        self._cached: list[int] = []

    def begin(self, text: Sequence[int]) -> int:
        """Prepare for ``text`` and its continuation; how many of its tokens are known already.

        As many as the cache has from the beginning on, if it can be taken back to there; else all
        that it holds or nothing.
        """
        pairs = zip(self._cached, text[:-1], strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        if same < len(self._cached) and not self._rewinds:
            same = 0
        del self._cached[same:]
        return same

    def logits(self, text: Sequence[int], interrupt: Interrupt) -> Tensor | None:
        """Logits [vocab] of the token after ``text``; ``None`` if interrupted before."""
        logits: Tensor | None = None
        while (start := len(self._cached)) < len(text):
            if interrupt.requested:
                return None
            # A method for pieces of a prompt takes whole ones; what is left goes token by token.
            whole = self._piece > 1 and len(text) - start >= self._piece
            piece = text[start : start + (self._piece if whole else self._longest)]
            method = self._prefill if whole else self._method
            logits = method(torch.tensor([piece]), torch.tensor([start]))
            self._cached += piece
        return None if logits is None or interrupt.requested else _last(logits)


class _Forgetful:
    """A program that is given the whole text each time: ``forward(tokens [1, S])``."""

    def __init__(self, method: ProgramMethod) -> None:
        self._method = method

    def begin(self, text: Sequence[int]) -> int:
        """Nothing is known of any text."""
        return 0

    def logits(self, text: Sequence[int], interrupt: Interrupt) -> Tensor | None:
        """Logits [vocab] of the token after ``text``; ``None`` if interrupted before."""
        return None if interrupt.requested else _last(self._method(torch.tensor([list(text)])))


def _last(logits: Tensor) -> Tensor:
    """The last token's logits [vocab], of [1, vocab] or of [1, S, vocab] for every token."""
    return logits.reshape(-1, logits.shape[-1])[-1]


class _Clock:
    """Seconds up to the first tick, and from there to the last one."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._first: float | None = None
        self._last = self._begun
        self.ticks = 0

    def tick(self) -> None:
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last
        self.ticks += 1

    @property
    def first(self) -> float:
        return 0.0 if self._first is None else self._first - self._begun

    @property
    def rest(self) -> float:
        return 0.0 if self._first is None else self._last - self._first
