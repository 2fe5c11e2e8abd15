"""What a ``.pte`` says about itself, read before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import frozen

from llmx.config.methods import FORWARD, PREFILL
from llmx.errors import ArtifactError
from llmx.names import did_you_mean
from llmx.pte import read_contents
from llmx.pte.contents import Contents
from llmx.pte.methods import Tensor as TensorInfo
from llmx.quiet import stderr_captured
from llmx.run.runtime import load_program


@frozen
class ProgramInfo:
    """A program's metadata.

    Attributes:
        max_context_length: most tokens that prompt and answer may have together.
        max_seq_length: most tokens of one call.
        vocab_size: length of a row of logits.
        bos_id: ``None`` for a model without one.
        eos_ids: generation ends at any of these.
        kv_cache: whether the program remembers the tokens that it was given.
        dynamic: whether a call may have several tokens.
        rewinds: whether the KV cache has a place for every token of the context, so that a text
            can go on from any earlier token.
        method: what computes logits.
        prefill: another method that reads pieces of ``prefill_length`` tokens into the same KV
            cache, if there is one.
    """

    path: Path
    max_context_length: int
    max_seq_length: int
    vocab_size: int
    bos_id: int | None
    eos_ids: frozenset[int]
    kv_cache: bool
    dynamic: bool
    rewinds: bool
    method: str = FORWARD
    prefill: str | None = None
    prefill_length: int = 1

    @property
    def any_token(self) -> int:
        """A token that the program surely reads, whatever its vocabulary was pruned to."""
        # Published ids may lie beyond the vocabulary of a tiny model.
        return min((each for each in self.eos_ids if each < self.vocab_size), default=0)


def read_program(path: Path, method: str = FORWARD) -> ProgramInfo:
    """Verify the file and read its constant methods.

    Raises:
        ArtifactError: it is missing, damaged, has no such method, or was not exported for the LLM
            runner.
    """
    program = load_program(path)
    if method != FORWARD:
        _require_method(path, method)
    contents = read_contents(path)
    prefill, piece = _prefill(contents) if method == FORWARD else (None, 1)
    with stderr_captured():
        constants = _Constants(path, program)
        length = constants.required("get_max_seq_len")
        context = constants.optional("get_max_context_len", length)
        return ProgramInfo(
            path=path,
            max_context_length=context,
            max_seq_length=length,
            vocab_size=constants.optional("get_vocab_size", None)
            or _logits_length(program, method),
            bos_id=constants.optional("get_bos_id", None),
            eos_ids=frozenset(constants.all("get_eos_ids")),
            kv_cache=bool(constants.optional("use_kv_cache", True)),
            dynamic=bool(constants.optional("enable_dynamic_shape", True)),
            rewinds=_keeps_all(contents, context, method),
            method=method,
            prefill=prefill,
            prefill_length=piece,
        )


class _Constants:
    """The methods of a program that take nothing and return numbers."""

    def __init__(self, path: Path, program: Any) -> None:
        self._path = path
        self._program = program
        self._names = {program.get_method_name(at) for at in range(program.num_methods())}

    def all(self, name: str) -> list[int]:
        """Every number that ``name`` returns; empty if there is no such method."""
        if name not in self._names:
            return []
        return [int(value) for value in self._program.load_method(name)([])]

    def optional(self, name: str, default: Any) -> Any:
        values = self.all(name)
        return values[0] if values else default

    def required(self, name: str) -> int:
        values = self.all(name)
        if not values:
            raise ArtifactError(
                f"{self._path} has no method {name}, so the LLM runner cannot run it",
                remedy="export it with llmx export",
            )
        return values[0]


def _require_method(path: Path, method: str) -> None:
    models = [each.name for each in read_contents(path).methods if each.inputs]
    if method not in models:
        raise ArtifactError(
            f"{path} has no method {method}{did_you_mean(method, models)}",
            remedy=f"it has {', '.join(models) or 'none'}",
        )


def _logits_length(program: Any, method: str) -> int:
    return int(program.method_meta(method).output_tensor_meta(0).sizes()[-1])


def _prefill(contents: Contents) -> tuple[str | None, int]:
    """The method that reads prompts in pieces, and how many tokens it takes."""
    name = contents.metadata.get(PREFILL)
    method = next((each for each in contents.methods if each.name == name), None)
    tokens = method.inputs[0] if method is not None and method.inputs else None
    if method is None or not isinstance(tokens, TensorInfo) or len(tokens.sizes) != 2:
        return None, 1
    return method.name, tokens.sizes[1]


def _keeps_all(contents: Contents, context: int, name: str) -> bool:
    """Whether all state that is seen has a place for each token; rings and sinks have fewer."""
    for method in contents.methods:
        if method.name == name and method.state.bytes_per_token is not None:
            return method.state.bytes == method.state.bytes_per_token * context
    return False
