"""Which tokens a program reads and says, and the weights that are left then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from llmx.checkpoint import IntegerWeight, TokenIds
from llmx.config import ModelOptions
from llmx.errors import ConfigError

EMBEDDING, HEAD = "embedding.weight", "head.weight"
INPUT_KEY, OUTPUT_KEY = "model.input_prune_map", "model.output_prune_map"


@frozen
class Vocabulary:
    """Token ids in the order of the rows that stand for them; ``None`` is all, as they are.

    ``size``: of the whole vocabulary, which logits have in any case.
    """

    size: int
    inputs: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None

    @property
    def readable(self) -> Sequence[int]:
        """The ids that a text may have."""
        return range(self.size) if self.inputs is None else self.inputs

    @property
    def one_table(self) -> bool:
        """Whether embedding and head have the same rows."""
        return self.inputs == self.outputs

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise :class:`ConfigError` for a model that was built with other tables."""
        for name, kept, key in self._tables:
            if kept is not None and name in shapes and shapes[name][0] != len(kept):
                raise ConfigError(
                    f"{key}: this family's model has its whole vocabulary", remedy="leave it out"
                )

    def stored_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The model's shapes as a checkpoint has them."""
        whole = {
            name: (self.size, *shapes[name][1:]) for name, _, _ in self._tables if name in shapes
        }
        return {**shapes, **whole}

    def cut(
        self, tensors: Iterable[tuple[str, Tensor | IntegerWeight]], *, tied: bool
    ) -> Iterator[tuple[str, Tensor | IntegerWeight]]:
        """``tensors`` with the rows that are left.

        Args:
            tied: the checkpoint's embedding is the head too; where the rows differ, they part.
        """
        for name, tensor in tensors:
            if name == EMBEDDING:
                yield name, _rows(tensor, self.inputs)
                if tied and not self.one_table:
                    yield HEAD, _rows(tensor, self.outputs)
            else:
                yield name, _rows(tensor, self.outputs) if name == HEAD else tensor

    def notes(self) -> Iterator[str]:
        """What is left, for people to know."""
        for _, kept, key in self._tables:
            if kept is not None:
                yield f"{key} keeps {len(kept):,} of {self.size:,} tokens"

    @property
    def _tables(self) -> tuple[tuple[str, tuple[int, ...] | None, str], ...]:
        return (EMBEDDING, self.inputs, INPUT_KEY), (HEAD, self.outputs, OUTPUT_KEY)


def read_vocabulary(options: ModelOptions, *, size: int, special: TokenIds) -> Vocabulary:
    """What ``model.input_prune_map`` and ``model.output_prune_map`` leave of ``size`` tokens.

    Args:
        special: ids without which no text could begin or end.

    Raises:
        ConfigError: a file that cannot be used, or a model that could not go on or come to an end.
    """
    found = Vocabulary(
        size,
        inputs=_read_map(INPUT_KEY, options.input_prune_map, size),
        outputs=_read_map(OUTPUT_KEY, options.output_prune_map, size),
    )
    ends = set(special.eos)
    if found.outputs is not None:
        _require(OUTPUT_KEY, found.outputs, ends, "the model could not end a text")
    if found.inputs is not None:
        starts = ends if special.bos is None else ends | {special.bos}
        _require(INPUT_KEY, found.inputs, starts, "no text could begin or end")
        said = range(size) if found.outputs is None else found.outputs
        _require(INPUT_KEY, found.inputs, set(said), "the model would say what it cannot read")
    return found


def _require(key: str, kept: Sequence[int], wanted: set[int], otherwise: str) -> None:
    missing = sorted(wanted - set(kept))
    if missing:
        named = ", ".join(map(str, missing[:3]))
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise ConfigError(
            f"{key} leaves out token {named}{more}, so {otherwise}",
            remedy=f"add them, or give the same map to {INPUT_KEY} and {OUTPUT_KEY}",
        )


def _read_map(key: str, path: str | None, size: int) -> tuple[int, ...] | None:
    """Original ids by their new ones, from a JSON mapping of new to original or a plain list."""
    if path is None:
        return None
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{key}: {path} cannot be read: {reason}") from error
    kept = _in_order(content)
    if kept is None or not all(type(each) is int for each in kept):
        raise ConfigError(
            f"{key}: {path} does not map new token ids from 0 on to original ones",
            remedy='for example {"0": 0, "1": 2, "2": 17}, or just [0, 2, 17]',
        )
    strange = [each for each in kept if not 0 <= each < size]
    if strange:
        raise ConfigError(f"{key}: {path} has token {strange[0]}; the model has {size:,} tokens")
    if len(set(kept)) != len(kept):
        twice = next(each for each in kept if kept.count(each) > 1)
        raise ConfigError(f"{key}: {path} has token {twice} more than once")
    return tuple(kept)


def _in_order(content: Any) -> list[Any] | None:
    if isinstance(content, list) and content:
        return content
    if not isinstance(content, dict) or not content:
        return None
    wanted = [str(index) for index in range(len(content))]
    return [content[key] for key in wanted] if set(wanted) == set(content) else None


def _rows(tensor: Tensor | IntegerWeight, kept: tuple[int, ...] | None) -> Tensor | IntegerWeight:
    return tensor if kept is None else tensor[torch.tensor(kept)]
