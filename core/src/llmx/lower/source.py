"""Where an export's weights and parameters come from, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.checkpoint import Checkpoint, source_hashes
from llmx.checkpoint.companions import read_companions
from llmx.checkpoint.files import file_hash
from llmx.checkpoint.lora import LoraCheckpoint, open_lora
from llmx.config import BaseOptions
from llmx.detect import refuse_mismatch
from llmx.errors import CheckpointError
from llmx.hookspecs import FamilySpec
from llmx.model.params import DecoderParams
from llmx.progress import Progress


@frozen
class Source:
    """An open checkpoint (``None`` for random weights) and the parameters that hold for it.

    ``adapter`` is what a LoRA adds to the weights, if one is asked for.
    """

    checkpoint: Checkpoint | None
    params: DecoderParams
    adapter: LoraCheckpoint | None = None

    def identity(self, hashes: Mapping[str, str], tokenizer: Path | None) -> Mapping[str, Any]:
        """What decides the weights, JSON-able: the same for the same program.

        Args:
            hashes: see ``file_hashes``.
            tokenizer: cuts the text up for which weights may be rounded.
        """
        return {
            "files": hashes,
            "adapter": {} if self.adapter is None else self.adapter.scales,
            "tokenizer": None if tokenizer is None else file_hash(tokenizer),
        }


def file_hashes(source: Source) -> Mapping[str, str]:
    """SHA-256 by file name; an adapter's file may be called as one of the model's."""
    model = {} if source.checkpoint is None else source_hashes(source.checkpoint)
    adapter = {} if source.adapter is None else source_hashes(source.adapter)
    return {**model, **{f"adapter/{name}": each for name, each in adapter.items()}}


def open_source(base: BaseOptions, family: FamilySpec, progress: Progress) -> Source:
    """Open the checkpoint and the adapter; see ``open_lora`` for the latter's errors."""
    adapter = None if base.lora_config is None else open_lora(base.lora_config)
    return attrs.evolve(_open_model(base, family, progress), adapter=adapter)


def _open_model(base: BaseOptions, family: FamilySpec, progress: Progress) -> Source:
    """Open the checkpoint, or download it, and settle the parameters.

    A parameter file wins over the checkpoint's own configuration, which wins over the published
    size. A size that was asked for must agree with what the checkpoint says.

    Raises:
        CheckpointError: no weights are named, or they are of another family or another size than
            was asked for.
    """
    published = family.default_params(size=base.size)
    params_file = None if base.params is None else Path(base.params)
    if base.random_weights:
        if params_file is None:
            return Source(None, published)
        described = read_companions(params_file.parent, params_file).describe({})
        config = {"max_position_embeddings": published.max_position, **described.config}
        return Source(None, family.params_from_hf(config=config))
    source = base.checkpoint or family.hub_repo(size=base.size)
    if source is None:
        raise CheckpointError(
            f"no weights are named for {base.model_class}",
            remedy="give --checkpoint PATH or HUB_ID, or --random-weights to try things out",
        )
    checkpoint = family.load_checkpoint(
        source=source, revision=base.revision, params=params_file, progress=progress
    )
    if not checkpoint.config:
        return Source(checkpoint, published)
    if family.match_config(config=checkpoint.config) == 0:
        raise refuse_mismatch(checkpoint.source, checkpoint.config, base.model_class)
    # Meta's parameter files do not say how long a context the model was made for.
    config = {"max_position_embeddings": published.max_position, **checkpoint.config}
    params = family.params_from_hf(config=config)
    if base.size is not None:
        _check_size(params, published, base.size, checkpoint.source)
    return Source(checkpoint, params)


def _check_size(params: DecoderParams, published: DecoderParams, size: str, source: str) -> None:
    names = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size")
    differing = [
        f"{name} is {getattr(params, name)}, not {getattr(published, name)}"
        for name in names
        if getattr(params, name) != getattr(published, name)
    ]
    if differing:
        raise CheckpointError(
            f"{source} is not of size {size}: {'; '.join(differing)}",
            remedy="leave --size out to take the checkpoint as it is",
        )
