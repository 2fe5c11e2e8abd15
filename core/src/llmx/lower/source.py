"""Where an export's weights and parameters come from, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from llmx.checkpoint import Checkpoint, source_hashes
from llmx.checkpoint.companions import read_companions
from llmx.checkpoint.files import file_hash
from llmx.checkpoint.lora import LoraCheckpoint, open_lora
from llmx.checkpoint.lora_meta import split_adapter
from llmx.config import BaseOptions
from llmx.config.data_files import LORA
from llmx.config.methods import FORWARD, Method
from llmx.config.schema import ExportOptions
from llmx.detect import refuse_mismatch
from llmx.errors import CheckpointError, ConfigError
from llmx.hookspecs import FamilySpec
from llmx.model.matching import ANOTHER, STAND_IN
from llmx.model.params import DecoderParams
from llmx.progress import Progress


@frozen
class Source:
    """An open checkpoint (``None`` for random weights) and the parameters that hold for it.

    ``adapter`` is what a LoRA adds to the weights, if one is asked for; ``beside`` is one that the
    checkpoint has and that stays apart; ``stands_in`` tells that the family reads the checkpoint
    for want of one that was made for it; ``methods`` are further adapters, each for a method of
    its own.
    """

    checkpoint: Checkpoint | None
    params: DecoderParams
    adapter: LoraCheckpoint | None = None
    beside: LoraCheckpoint | None = None
    stands_in: bool = False
    methods: Mapping[str, LoraCheckpoint] = attrs.Factory(dict)

    def identity(self, hashes: Mapping[str, str], tokenizer: Path | None) -> Mapping[str, Any]:
        """What decides the weights, JSON-able: the same for the same program.

        Args:
            hashes: see ``file_hashes``.
            tokenizer: cuts the text up for which weights may be rounded.
        """
        return {
            "files": hashes,
            "adapter": {} if self.adapter is None else self.adapter.scales,
            "beside": {} if self.beside is None else self.beside.scales,
            "methods": {name: each.scales for name, each in self.methods.items()},
            "tokenizer": None if tokenizer is None else file_hash(tokenizer),
        }


def file_hashes(source: Source) -> Mapping[str, str]:
    """SHA-256 by file name; an adapter's file may be called as one of the model's."""
    model = {} if source.checkpoint is None else source_hashes(source.checkpoint)
    adapter = {} if source.adapter is None else source_hashes(source.adapter)
    methods = {
        f"{method}/{name}": each
        for method, lora in source.methods.items()
        for name, each in source_hashes(lora).items()
    }
    return {**model, **{f"adapter/{name}": each for name, each in adapter.items()}, **methods}


def with_methods(source: Source, methods: Sequence[Method]) -> Source:
    """``source`` with the adapters of a program's methods; see ``open_lora`` for its errors."""
    adapters = {
        each.method_name: open_lora(each.lora_config)
        for each in methods
        if each.lora_config is not None
    }
    return attrs.evolve(source, methods=adapters)


def with_adapter_apart(source: Source) -> Source:
    """``source`` with the adapter that was asked for beside the weights instead of in them.

    Raises:
        CheckpointError: the checkpoint has one beside its weights already.
    """
    if source.adapter is None:
        return source
    if source.beside is not None:
        assert source.checkpoint is not None
        raise CheckpointError(
            f"{source.checkpoint.source} has an adapter beside its weights already",
            remedy="leave base.lora_config out, or the names of weight files",
        )
    return attrs.evolve(source, adapter=None, methods={FORWARD: source.adapter})


def require_adapter(export: ExportOptions, source: Source) -> None:
    """Raise :class:`ConfigError` if a file is asked for an adapter that is not there."""
    if export.lora_weights_file is None or source.beside is not None or source.methods:
        return
    raise ConfigError(
        f"{LORA} {export.lora_weights_file}: there is no adapter",
        remedy="name one with --adapter, or leave the file out",
    )


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
    params_file = None if base.params is None else Path(base.params)
    if base.random_weights and params_file is None:
        return Source(None, _published(base, family))
    if base.random_weights:
        assert params_file is not None
        described = read_companions(params_file.parent, params_file).describe({})
        return Source(None, _described(described.config, base, family))
    source = base.checkpoint or (family.hub_repo(size=base.size) if family.sizes() else None)
    if source is None:
        raise CheckpointError(
            f"no weights are named for {base.model_class}",
            remedy="give --checkpoint PATH or HUB_ID, or --random-weights to try things out",
        )
    checkpoint = family.load_checkpoint(
        source=source, revision=base.revision, params=params_file, progress=progress
    )
    checkpoint, beside = split_adapter(checkpoint)
    if base.use_lora:
        _check_rank(base.use_lora, checkpoint, beside)
    if not checkpoint.config:
        return Source(checkpoint, _published(base, family), beside=beside)
    level = family.match_config(config=checkpoint.config)
    if level == ANOTHER:
        raise refuse_mismatch(checkpoint.source, checkpoint.config, base.model_class)
    params = _described(checkpoint.config, base, family)
    if base.size is not None:
        _check_size(params, _published(base, family), base.size, checkpoint.source)
    return Source(checkpoint, params, beside=beside, stands_in=level == STAND_IN)


def _check_rank(wanted: int, checkpoint: Checkpoint, beside: LoraCheckpoint | None) -> None:
    if beside is None:
        raise CheckpointError(
            f"base.use_lora={wanted}: {checkpoint.source} has no adapter beside its weights",
            remedy="leave it out; an adapter of its own is --adapter",
        )
    for name, (down, _) in beside.factors.items():
        rank = beside.inner.tensors[down].shape[0]
        if rank != wanted:
            raise CheckpointError(
                f"base.use_lora={wanted}: the adapter of {name} has rank {rank}",
                remedy=f"use base.use_lora={rank}, or leave it out",
            )


def _published(base: BaseOptions, family: FamilySpec) -> DecoderParams:
    if not family.sizes():
        raise CheckpointError(
            f"{base.model_class} has no sizes of its own",
            remedy="give --checkpoint PATH or HUB_ID with a config.json, or --params FILE",
        )
    return family.default_params(size=base.size)


def _described(config: Mapping[str, Any], base: BaseOptions, family: FamilySpec) -> DecoderParams:
    """Parameters by a configuration; Meta's does not say for how long a context it was made."""
    if "max_position_embeddings" not in config and family.sizes():
        config = {"max_position_embeddings": _published(base, family).max_position, **config}
    return family.params_from_hf(config=config)


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
