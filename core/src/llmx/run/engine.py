"""ExecuTorch's ``TextLLMRunner``, driven by token ids: what apps on a device run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmx.errors import ArtifactError, LlmxError, UserError
from llmx.quiet import native_stderr_captured
from llmx.run.data import data_of
from llmx.run.interrupt import Interrupt, deferred_interrupt
from llmx.run.program import ProgramInfo
from llmx.run.runtime import EXPORT_AGAIN, last_line, register_operators
from llmx.run.tokens import Run, StopReason, room_for_answer
from llmx.run.wire import from_wire, to_wire, write_wire_tokenizer

HOTTEST = 1.0  # the runner's own limit


class Engine:
    """A program in the runner, and the tokens that its KV cache holds.

    The runner takes the most likely first token whatever the temperature; that is its behaviour
    on devices too.
    """

    def __init__(self, program: ProgramInfo) -> None:
        """Open the program, load its weights and run it once.

        Raises:
            ArtifactError: the runner refuses it.
            LlmxError: the runner failed; this machine may lack the program's backend.
        """
        register_operators()
        self.program = program
        self._cached: list[int] = []
        with data_of(program.path) as data:
            self._runner: Any = _runner(program, data)
            # The runner loads the weights with its first token: late for errors, and it would
            # spoil the figures of the first answer.
            self._run([program.any_token], limit=1, temperature=0.0, hear=lambda piece: None)
        self._runner.reset()

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int | None,
        temperature: float,
        on_token: Callable[[int], None],
    ) -> Run:
        """Continue ``prompt``, which is the whole text so far.

        What the KV cache already holds of it is not computed again. Ctrl-C ends the run after the
        token at hand; ``stderr`` is diverted meanwhile, because the runner logs there.

        Args:
            max_new_tokens: ``None`` goes on to the model's end token or the end of the context.
            temperature: 0 takes the most likely token; 1 is the highest.
            on_token: called with each new id but the end token. What it raises ends the run.

        Raises:
            UserError: the prompt is empty or fills the context, or a limit makes no sense.
            LlmxError: the runner failed.
        """
        room = room_for_answer(self.program, prompt, max_new_tokens)
        if not 0 <= temperature <= HOTTEST:
            raise UserError(
                f"the runner cannot sample at a temperature of {temperature}",
                remedy=f"choose one from 0 to {HOTTEST}",
            )
        limit = room if max_new_tokens is None else min(room, max_new_tokens)
        new = self._new_tokens(prompt)
        interrupt = Interrupt()
        with deferred_interrupt(interrupt):
            listener = _Listener(self._runner, self.program.eos_ids, on_token, interrupt)
            self._run(new, limit, temperature, listener.hear)
        # The last token that the runner made was not fed back to the model.
        self._cached = [*prompt, *listener.made[:-1]]
        if listener.failure is not None:
            raise listener.failure
        return Run(
            tokens=listener.tokens,
            stop_reason=listener.reason or ("max_new_tokens" if limit < room else "context"),
            prefilled=len(new),
            prefill_seconds=listener.prefill_seconds,
            decoded=len(listener.made) - 1,
            decode_seconds=listener.decode_seconds,
        )

    def uninterrupted(self, prompt: Sequence[int], limit: int) -> list[int]:
        """What the runner makes by itself after ``prompt``, at most ``limit`` tokens, the most
        likely ones; its end token is among them if it stopped there.

        Raises:
            LlmxError: the runner failed.
        """
        self._runner.reset()
        self._cached = []
        made: list[int] = []
        self._run(prompt, limit, 0.0, lambda piece: made.append(from_wire(piece)))
        self._runner.reset()
        return made

    def _new_tokens(self, prompt: Sequence[int]) -> Sequence[int]:
        """What the runner has to be given, after a reset unless the cache holds the rest."""
        known = len(self._cached)
        kept = self.program.kv_cache and 0 < known < len(prompt)
        if kept and list(prompt[:known]) == self._cached:
            return prompt[known:]
        self._runner.reset()
        self._cached = []
        return prompt

    def _run(
        self, new: Sequence[int], limit: int, temperature: float, hear: Callable[[str], None]
    ) -> None:
        from executorch.extension.llm.runner import GenerationConfig

        # `warming` is how the runner is told not to print the text itself.
        config = GenerationConfig(
            echo=False, warming=True, max_new_tokens=limit, temperature=temperature
        )
        with native_stderr_captured() as log:
            try:
                self._runner.generate(to_wire(new), config, hear)
            except RuntimeError as error:
                self._runner.reset()
                self._cached = []
                raise LlmxError(
                    f"the runner failed on {self.program.path}: {last_line(log) or error}",
                    remedy="was it exported for the LLM runner, and for this machine?",
                ) from error


def _runner(program: ProgramInfo, data: Path | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="llmx-") as folder, native_stderr_captured() as log:
        from executorch.extension.llm.runner import TextLLMRunner

        tokenizer = Path(folder) / "tokenizer.json"
        write_wire_tokenizer(tokenizer, program.vocab_size)
        try:
            return TextLLMRunner(
                str(program.path), str(tokenizer), None if data is None else str(data)
            )
        except RuntimeError as error:
            raise ArtifactError(
                f"the runner cannot open {program.path}: {last_line(log) or error}",
                remedy=EXPORT_AGAIN,
            ) from error


class _Listener:
    """Follows a run, and stops it where the runner does not.

    The runner overlooks an end token that comes first, and a ``stop()`` that comes that early, so
    both are repeated at the next token.
    """

    def __init__(
        self,
        runner: Any,
        ends: frozenset[int],
        on_token: Callable[[int], None],
        interrupt: Interrupt,
    ) -> None:
        self._runner = runner
        self._ends = ends
        self._on_token = on_token
        self._interrupt = interrupt
        self._begun = time.perf_counter()
        self._first = self._last = 0.0
        self.made: list[int] = []
        self.tokens: list[int] = []
        self.reason: StopReason | None = None
        self.failure: BaseException | None = None

    @property
    def prefill_seconds(self) -> float:
        return self._first - self._begun

    @property
    def decode_seconds(self) -> float:
        return self._last - self._first

    def hear(self, piece: str) -> None:
        """The runner made a token."""
        token = from_wire(piece)
        self.made.append(token)
        self._last = time.perf_counter()
        self._first = self._first or self._last
        if self.reason is None and self.failure is None:
            self._take(token)
        if self.reason is not None or self.failure is not None:
            self._runner.stop()

    def _take(self, token: int) -> None:
        if token in self._ends:
            self.reason = "end"
            return
        if self._interrupt.requested:
            self.reason = "interrupted"
            return
        self.tokens.append(token)
        try:
            self._on_token(token)
        except BaseException as error:
            self.failure = error
