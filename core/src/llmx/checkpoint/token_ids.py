"""Where a text begins and ends, as the checkpoint's own files say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmx.checkpoint.base import Checkpoint, TokenIds
from llmx.errors import CheckpointError

END_TOKEN_NAMES = ("eos_token", "eot_token", "eom_token")


def read_token_ids(checkpoint: Checkpoint, published: TokenIds) -> TokenIds:
    """The bos id and every id at which generation stops.

    The end ids are the union of what the files say, in this order: ``generation_config.json``
    (one id or a list), ``config.json``, then the spelled-out end tokens of
    ``tokenizer_config.json``. Stopping at any of them is right: files of one model often name
    different ones, for the end of a text and of a turn. bos is the first that is found in the
    same order. ``published`` fills in only what no file says.
    """
    ends = dict.fromkeys(_end_ids(checkpoint))
    bos = next(_bos_ids(checkpoint), published.bos)
    return TokenIds(bos=bos, eos=tuple(ends) or published.eos)


def _end_ids(checkpoint: Checkpoint) -> Iterator[int]:
    for where in (checkpoint.generation_config, checkpoint.config):
        yield from _ids(checkpoint, where, "eos_token_id")
    yield from _spelled(checkpoint, END_TOKEN_NAMES)


def _bos_ids(checkpoint: Checkpoint) -> Iterator[int]:
    for where in (checkpoint.generation_config, checkpoint.config):
        yield from _ids(checkpoint, where, "bos_token_id")
    yield from _spelled(checkpoint, ("bos_token",))


def _ids(checkpoint: Checkpoint, config: Mapping[str, Any], key: str) -> Iterator[int]:
    value = config.get(key)
    for token in value if isinstance(value, list) else [value]:
        if token is None:
            continue
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise CheckpointError(
                f"{checkpoint.source}: {key} is {value!r}, not a token id or a list of them",
                remedy="Correct generation_config.json or config.json.",
            )
        yield token


def _spelled(checkpoint: Checkpoint, names: tuple[str, ...]) -> Iterator[int]:
    """Ids of tokens that ``tokenizer_config.json`` gives by their text."""
    known = checkpoint.special_tokens()
    for name in names:
        token = checkpoint.tokenizer_config.get(name)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str) and text in known:
            yield known[text]
