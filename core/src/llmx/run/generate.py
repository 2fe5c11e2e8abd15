"""Text from an exported model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from llmx.artifact import Artifact
from llmx.config.methods import FORWARD
from llmx.errors import ArtifactError, UserError
from llmx.run.interrupt import Interrupt
from llmx.run.program import read_program
from llmx.run.sampling import Sampling
from llmx.run.stop_strings import StopStrings
from llmx.run.template import ChatTemplate
from llmx.run.text_stream import TextStream
from llmx.run.tokenizer import TextTokenizer, load_tokenizer
from llmx.run.tokens import Run, StopReason, TokenGenerator

NAME_A_TOKENIZER = "name its tokenizer.json or tokenizer.model with --tokenizer FILE"


@frozen
class Generation:
    """What the model said, and how fast.

    Attributes:
        text: without special tokens; U+FFFD for a character that the model did not complete.
        prompt_tokens: length of the whole prompt; ``cached_tokens`` of them were in the KV cache.
        generated_tokens: without the end token.
        first_token_seconds: from the prompt to the first token; 0 if none came.
        prefill_rate, decode_rate: tokens per second; ``None`` where too little was done to tell.
        stop_reason: ``end`` (the model's own), ``stop`` (a stop string), ``max_new_tokens``,
            ``context`` (it is full) or ``interrupted``.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    first_token_seconds: float
    prefill_rate: float | None
    decode_rate: float | None
    stop_reason: StopReason


class TextGenerator:
    """An exported model with its tokenizer, in ExecuTorch's runtime.

    Attributes:
        template: the model's chat template, if it has one.
        sampling: what its publisher recommends; greedy where nothing is known.
        context_length: most tokens that prompt and answer may have together.
    """

    def __init__(
        self,
        program: Path,
        tokenizer: Path,
        *,
        template: str | None = None,
        special_tokens: Mapping[str, str] | None = None,
        sampling: Sampling | None = None,
        method: str = FORWARD,
    ) -> None:
        """Load a ``.pte`` and a tokenizer; :meth:`open` does so for an artifact.

        Args:
            special_tokens: ``bos_token`` and ``eos_token`` as the template spells them, where
                they are not the program's bos and only end token.
            method: of the program, where it has several.

        Raises:
            ArtifactError: one of the files cannot be used, or they do not fit each other.
            UserError: the template is not valid.
        """
        info = read_program(program, method)
        self._tokenizer = load_tokenizer(tokenizer)
        _check_fit(program, info.vocab_size, tokenizer, self._tokenizer.size)
        self.template: ChatTemplate | None = None
        if template is not None:
            spelled = _spelled(self._tokenizer, info.bos_id, info.eos_ids)
            self.template = ChatTemplate(template, {**spelled, **(special_tokens or {})})
        self.sampling = sampling or Sampling()
        self.context_length = info.max_context_length
        self._model = TokenGenerator(info)

    @classmethod
    def open(
        cls, path: Path, tokenizer: Path | None = None, method: str = FORWARD
    ) -> TextGenerator:
        """Load an artifact's folder, or a ``.pte`` file with its tokenizer.

        Args:
            tokenizer: used instead of the artifact's own.
            method: of the program, where it has several.

        Raises:
            ArtifactError: as the constructor; or there is no tokenizer.
        """
        if path.is_file():
            if tokenizer is None:
                raise ArtifactError(f"{path} has no tokenizer in it", remedy=NAME_A_TOKENIZER)
            return cls(path, tokenizer, method=method)
        if path.suffix == ".pte" and not path.exists():
            raise ArtifactError(f"no such file: {path}", remedy="name an exported model")
        artifact = Artifact.open(path)
        chosen = tokenizer or artifact.tokenizer
        if chosen is None:
            raise ArtifactError(f"{path} was exported without a tokenizer", remedy=NAME_A_TOKENIZER)
        return cls(
            artifact.program,
            chosen,
            template=artifact.chat_template,
            special_tokens=artifact.manifest.get("special_tokens"),
            sampling=Sampling.recommended(artifact.manifest.get("sampling")),
            method=method,
        )

    def complete(
        self,
        text: str,
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
        interrupt: Interrupt | None = None,
    ) -> Generation:
        """Continue ``text`` as it stands; a bos token comes first where the tokenizer says so.

        Args:
            max_new_tokens: ``None`` goes on until the model ends or the context is full.
            stop: texts that end the answer and are not part of it.
            sampling: ``None`` means the model's own.
            on_text: called with each piece of text as soon as it is certain.
            interrupt: ends the answer from another thread.

        Raises:
            UserError: the text is empty or too long for the context.
            LlmxError: the program failed.
        """
        if not text:
            raise UserError("the prompt is empty", remedy="say something")
        tokens = _encoded(self._tokenizer.encode_document, text)
        return self._generate(tokens, max_new_tokens, stop, sampling, on_text, interrupt)

    def reply(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] | None = None,
        interrupt: Interrupt | None = None,
    ) -> Generation:
        """Answer the last of ``messages``, each with its ``role`` and ``content``.

        Arguments and errors are those of :meth:`complete`; besides:

        Raises:
            UserError: there is no chat template, or it refuses these messages.
        """
        if self.template is None:
            raise UserError(
                "this model has no chat template, so it can only complete texts",
                remedy="use llmx run, or export a chat model",
            )
        tokens = _encoded(self._tokenizer.encode, self.template.render(messages))
        return self._generate(tokens, max_new_tokens, stop, sampling, on_text, interrupt)

    def _generate(
        self,
        prompt: list[int],
        max_new_tokens: int | None,
        stop: Sequence[str],
        sampling: Sampling | None,
        on_text: Callable[[str], None] | None,
        interrupt: Interrupt | None,
    ) -> Generation:
        stream = TextStream(self._tokenizer.decode, before=prompt)
        stops = StopStrings(stop)
        pieces: list[str] = []

        def show(piece: str) -> None:
            if piece:
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)

        def hear(token: int) -> bool:
            show(stops.push(stream.push(token)))
            return stops.found

        run = self._model.generate(
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling or self.sampling,
            on_token=hear,
            interrupt=interrupt or Interrupt(),
        )
        show(stops.push(stream.flush()))
        show(stops.flush())
        return _describe(run, "".join(pieces), len(prompt))


def _encoded(encode: Callable[[str], list[int]], text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not valid UTF-8", remedy="check its encoding") from error
    return encode(text)


def _describe(run: Run, text: str, prompt_tokens: int) -> Generation:
    return Generation(
        text=text,
        prompt_tokens=prompt_tokens,
        cached_tokens=prompt_tokens - run.prefilled,
        generated_tokens=len(run.tokens),
        first_token_seconds=run.prefill_seconds,
        prefill_rate=_rate(run.prefilled, run.prefill_seconds),
        decode_rate=_rate(run.decoded, run.decode_seconds),
        stop_reason=run.stop_reason,
    )


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count > 0 and seconds > 0 else None


def _check_fit(program: Path, vocab_size: int, tokenizer: Path, size: int) -> None:
    # Models are often padded to more rows than the tokenizer has tokens, never to fewer.
    if size > vocab_size:
        raise ArtifactError(
            f"{tokenizer} has {size} tokens, but {program} knows only {vocab_size}",
            remedy="this is another model's tokenizer; name the right one with --tokenizer",
        )


def _spelled(tokenizer: TextTokenizer, bos: int | None, ends: frozenset[int]) -> Mapping[str, str]:
    """What the ids in the program tell: with several end tokens, not which is ``eos_token``."""
    ids = {"bos_token": bos, "eos_token": next(iter(ends)) if len(ends) == 1 else None}
    texts = {name: tokenizer.spelling(id_) for name, id_ in ids.items() if id_ is not None}
    return {name: text for name, text in texts.items() if text is not None}
