"""The texts for which calibrated quantization rounds, as token ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from llmx.errors import ConfigError
from llmx.run.tokenizer import TextTokenizer

SEQUENCE = 256
RANDOM_SEQUENCES = 16


def calibration_text(path: str | None) -> str:
    """A user's text, or the one that comes with llmx: prose, dialogue, code and a few languages.

    Raises:
        ConfigError: the file cannot be read as UTF-8 text, or is empty.
    """
    if path is None:
        return resources.files("llmx.quantize").joinpath("calibration.txt").read_text("utf-8")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the calibration text {path} cannot be read: {_reason(error)}",
            remedy="give --calibration a text file in UTF-8",
        ) from error
    if not text.strip():
        raise ConfigError(f"the calibration text {path} is empty")
    return text


def token_sequences(
    text: str,
    tokenizer: TextTokenizer,
    *,
    length: int,
    limit: int | None = None,
    vocabulary: Collection[int] | None = None,
) -> list[Tensor]:
    """``text`` in pieces of ``length`` tokens, [1, length] int64 each, at most ``limit`` of them.

    Each piece begins as the model expects a text to begin. A remainder is left out, unless it is
    all there is, and so are tokens that are not in ``vocabulary``.
    """
    start = tokenizer.encode_document("")
    known = None if vocabulary is None else frozenset(vocabulary)
    encoded = tokenizer.encode_document(text)[len(start) :]
    ids = [each for each in encoded if known is None or each in known]
    step = max(length - len(start), 1)
    last = max(len(ids) - step, 0)
    pieces = [start + ids[at : at + step] for at in range(0, last + 1, step)]
    return [torch.tensor([piece]) for piece in pieces[:limit]]


def random_sequences(
    vocabulary: Sequence[int], *, length: int, limit: int | None = None, seed: int = 0
) -> list[Tensor]:
    """Ids of ``vocabulary`` without meaning [1, length], where no tokenizer is known."""
    generator = torch.Generator().manual_seed(seed)
    count = RANDOM_SEQUENCES if limit is None else limit
    ids = torch.tensor(vocabulary)
    return [ids[torch.randint(len(ids), (1, length), generator=generator)] for _ in range(count)]


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return error.strerror or str(error)
