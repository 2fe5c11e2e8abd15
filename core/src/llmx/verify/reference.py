"""The model as its checkpoint has it, in fp32: what an exported program is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from llmx.checkpoint import TokenIds, save_tokenizer
from llmx.config import BaseOptions, ExportJob, load_job
from llmx.config.methods import FORWARD
from llmx.config.schema import DebugOptions, QuantizationOptions, SelectedBackend
from llmx.errors import CheckpointError
from llmx.lower.build import draw, fill
from llmx.lower.context import resolve_lengths
from llmx.lower.source import Source, open_source
from llmx.model.cache_layout import SinksAndWindow, SlidingWindow
from llmx.model.kv_cache import AttentionCore, cores_of
from llmx.plugins import Plugins, load
from llmx.progress import Stages
from llmx.quantize.rounding import largest_value
from llmx.quiet import native_stderr_captured

CALL = 256
"""Most tokens that the model is given at once."""


class Reference:
    """An eager model of the same weights, without quantization and without a backend.

    Attributes:
        window: tokens that the layers see which see fewer than all, at most; ``None`` without
            such layers.
    """

    def __init__(self, job: ExportJob, stages: Stages) -> None:
        """Open the checkpoint that ``job`` names and load all of it.

        Raises:
            CheckpointError: it is not there or does not fit.
        """
        self._plugins: Plugins = load(job.base.model_class, None)
        with stages.stage("open reference"):
            self._source: Source = open_source(_merged(job), self._plugins.family, stages.display)
            job = resolve_lengths(_plain(job), self._source.params)
            self._cached = job.model.use_kv_cache
            blueprint = draw(job, self._source, self._plugins)
        with stages.stage("load reference"):
            for _ in fill(blueprint, stages, largest_value):
                pass
        self._model: nn.Module = blueprint.model
        self.window = _widest_window(self._model)

    @torch.no_grad()
    def logits(self, tokens: Sequence[int], *, start: int = 0, since: int = 0) -> Tensor:
        """Logits [S, vocab] behind each token from the one with index ``since`` on.

        Args:
            start: position of the first token; what the caches hold stands before it.
        """
        if not self._cached:
            return self._call(torch.tensor([list(tokens)]))[since:]
        kept = []
        for at in range(0, len(tokens), CALL):
            piece = list(tokens[at : at + CALL])
            logits = self._call(torch.tensor([piece]), torch.tensor([start + at]))
            kept.append(logits[max(0, since - at) :].clone())
        return torch.cat(kept)

    def forget(self) -> None:
        """Empty the caches."""
        for core in cores_of(self._model):
            for cache in core.buffers(recurse=False):
                cache.zero_()

    def _call(self, *inputs: Tensor) -> Tensor:
        # The custom operators' eager versions log every call.
        with native_stderr_captured():
            output: Tensor = self._model(*inputs)
        return output.float()[0]

    def token_ids(self) -> TokenIds:
        """What begins and what ends a text."""
        return self._plugins.family.token_ids(checkpoint=self._source.checkpoint)

    def write_tokenizer(self, folder: Path) -> Path | None:
        """The checkpoint's own tokenizer, if it has one."""
        if self._source.checkpoint is None:
            return None
        family = self._plugins.family
        return save_tokenizer(
            self._source.checkpoint, folder, sections=lambda name: family.gguf_tokenizer(name=name)
        )


def recorded_job(manifest: Path, checkpoint: str | None) -> ExportJob:
    """The job of an artifact, with another checkpoint where one is named.

    Raises:
        CheckpointError: the recorded checkpoint is not on this machine.
    """
    job = load_job(config=manifest).job
    if checkpoint is not None:
        base = attrs.evolve(job.base, checkpoint=checkpoint, random_weights=False, revision=None)
        return attrs.evolve(job, base=base)
    source = job.base.checkpoint
    if not job.base.random_weights and (source is None or not Path(source).exists()):
        raise CheckpointError(
            f"the checkpoint {source or 'of the default size'} is not here",
            remedy="name it with --reference",
        )
    return job


def job_for(checkpoint: str, family: str | None, metadata: Mapping[str, Any]) -> ExportJob:
    """A job for a program without a record; without ``family``, the checkpoint tells it."""
    lengths = {
        key: metadata[name]
        for key, name in (
            ("max_seq_length", "get_max_seq_len"), ("max_context_length", "get_max_context_len")
        )
        if isinstance(metadata.get(name), int)
    }  # fmt: skip
    try:
        return ExportJob.create(
            family,
            checkpoint=checkpoint,
            backend=None,
            qmode=None,
            embedding_quantize=None,
            **lengths,
        )
    except CheckpointError as error:
        if family is None:
            raise CheckpointError(error.message, remedy="name the family with --family") from error
        raise


def _merged(job: ExportJob) -> BaseOptions:
    """The weights that ``forward`` computes with, wherever their adapter is in the program."""
    adapters = [each.lora_config for each in job.multimethod.methods if each.method_name == FORWARD]
    return attrs.evolve(job.base, lora_config=adapters[0]) if adapters else job.base


def _widest_window(model: nn.Module) -> int | None:
    layouts = [each.layout for each in cores_of(model) if isinstance(each, AttentionCore)]
    sliding = [each.window for each in layouts if isinstance(each, SlidingWindow)]
    sinking = [each.sinks + each.window for each in layouts if isinstance(each, SinksAndWindow)]
    return max([*sliding, *sinking], default=None)


def _plain(job: ExportJob) -> ExportJob:
    """The same model in fp32, without what is only about the program."""
    context = job.export.max_context_length
    lengths = attrs.evolve(
        job.export, max_seq_length=CALL if context is None else min(CALL, context)
    )
    model = attrs.evolve(
        job.model,
        dtype_override="fp32",
        enable_dynamic_shape=True,
        use_shared_embedding=False,
        use_sdpa_with_kv_cache=False,
        quantize_kv_cache=False,
    )
    return attrs.evolve(
        job,
        model=model,
        export=lengths,
        # Integers of the checkpoint become the floats that they mean.
        quantization=QuantizationOptions(
            imported="requantize", use_spin_quant=job.quantization.use_spin_quant
        ),
        backend=SelectedBackend(),
        debug=DebugOptions(generate_full_logits=True),
    )
