"""A conversation with an exported model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llmx.errors import UserError
from llmx.run.generate import Generation, TextGenerator
from llmx.run.sampling import Sampling


class Conversation:
    """What was said so far.

    Every turn hands the whole conversation to the model, which computes only what its KV cache
    does not hold already.

    Attributes:
        system: the system message, if there is one.
    """

    def __init__(self, model: TextGenerator, *, system: str | None = None) -> None:
        self._model = model
        self.system = system
        self._turns: list[Mapping[str, str]] = []

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """All messages, each with ``role`` and ``content``."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self._turns]

    def say(
        self,
        text: str,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """One turn: the answer to ``text``, kept even if it was cut short, unless it is empty.

        Arguments are those of :meth:`TextGenerator.reply`. After an error the conversation is as
        it was before.

        Raises:
            UserError: nothing was said, the model has no chat template or its template refuses,
                or the conversation is too long for the context.
            LlmxError: the program failed.
        """
        if not text.strip():
            raise UserError("the prompt is empty", remedy="say something")
        question = {"role": "user", "content": text}
        generation = self._model.reply(
            [*self.messages, question],
            max_new_tokens=max_new_tokens,
            stop=stop,
            sampling=sampling,
            on_text=on_text,
        )
        if generation.text or generation.stop_reason != "interrupted":
            self._turns += [question, {"role": "assistant", "content": generation.text}]
        return generation

    def reset(self, *, system: str | None = None) -> None:
        """Begin anew, with another system message or none."""
        self.system = system
        self._turns = []
