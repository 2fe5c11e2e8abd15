"""An exported program as a model of EleutherAI's ``lm_eval``, which this module imports.

Every request becomes a text that the program reads token by token, because a shipped program gives
the logits of the last token only. What consecutive texts have in common at their beginning, such as
a question with several answers, is read once where the program has a KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llmx.progress import Progress
from llmx.run.feeding import FedProgram
from llmx.run.program import ProgramInfo
from llmx.run.tokenizer import TextTokenizer


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Requests of ``lm_eval``, with texts as token ids."""

    def __init__(
        self,
        program: FedProgram,
        info: ProgramInfo,
        tokenizer: TextTokenizer,
        progress: Progress,
    ) -> None:
        super().__init__()
        self._reader = _Reader(program, rewinds=info.rewinds)
        self._info = info
        self._tokenizer = tokenizer
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        return min(self._info.eos_ids)

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self._info.bos_id is None else self._info.bos_id

    def tok_encode(self, string: str, **options: Any) -> list[int]:
        return self._tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], **options: Any
    ) -> list[tuple[float, bool]]:
        answers = []
        for done, (_, context, continuation) in enumerate(requests, start=1):
            answers.append(self._likelihood(context, continuation))
            self._progress.advanced(done, len(requests), "requests")
        return answers

    def _likelihood(
        self, context: Sequence[int], continuation: Sequence[int]
    ) -> tuple[float, bool]:
        text = [*context, *continuation][-(self._info.max_context_length + 1) :]
        wanted = text[-len(continuation) :]
        rows = self._reader.logits(text[:-1])[-len(wanted) :]
        logs = torch.log_softmax(rows.double(), -1)
        likelihood = float(logs[range(len(wanted)), wanted].sum())
        return likelihood, rows.argmax(-1).tolist() == list(wanted)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        answers = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._info.max_context_length,
                context_len=1,
            )
            pairs = map(make_disjoint_window, windows)
            answers.append(sum(self._likelihood(*pair)[0] for pair in pairs))
        return answers

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for done, request in enumerate(requests, start=1):
            text, options = request.args
            answers.append(self._continue(text, options))
            self._progress.advanced(done, len(requests), "requests")
        return answers

    def _continue(self, text: str, options: Mapping[str, Any]) -> str:
        stops = [stop for stop in options.get("until") or () if stop]
        room = int(options.get("max_gen_toks") or 256)
        tokens = self._tokenizer.encode(text)[-max(1, self._info.max_context_length - room) :]
        made: list[int] = []
        spoken = ""
        while len(made) < room and len(tokens) + len(made) < self._info.max_context_length:
            token = int(self._reader.logits([*tokens, *made])[-1].argmax())
            if token in self._info.eos_ids:
                break
            made.append(token)
            spoken = self._tokenizer.decode(made)
            ends = [spoken.index(stop) for stop in stops if stop in spoken]
            if ends:
                return spoken[: min(ends)]
        return spoken


class _Reader:
    """Logits of texts, of which the next one often begins as the last one did.

    Where the caches cannot be taken back, only what a text adds to the last one is read apart.
    """

    def __init__(self, program: FedProgram, *, rewinds: bool) -> None:
        self._program = program
        self._rewinds = rewinds
        self._known: list[int] = []
        self._rows: list[torch.Tensor] = []

    def logits(self, text: Sequence[int]) -> torch.Tensor:
        """Logits [S, vocab] behind each token of ``text``."""
        same = 0
        if self._program.cached:
            pairs = zip(self._known, text, strict=False)
            same = next(
                (at for at, (a, b) in enumerate(pairs) if a != b), min(len(self._known), len(text))
            )
        if same < len(self._known) and not self._rewinds:
            same = 0
        rows = self._rows[:same]
        self._known, self._rows = [], []
        rows += self._program.walk(text[same:], start=same) if same else self._program.walk(text)
        self._known, self._rows = list(text), rows
        return torch.stack(rows)
