"""Core's own answers to the hooks, asked after the plugins'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from llmx import undelegated
from llmx.errors import ConfigError
from llmx.hookspecs import PROJECT, FamilySpec
from llmx.model.params import find_size
from llmx.names import match_size

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from executorch.exir import ExecutorchBackendConfig

    from llmx.checkpoint import Checkpoint
    from llmx.config import ExportJob, Recipe
    from llmx.model.ops import BuildOptions, ModelOps
    from llmx.model.params import DecoderParams, ModelSize
    from llmx.progress import Progress

default = pluggy.HookimplMarker(PROJECT)(trylast=True)


class FamilyDefaults:
    """What holds for most families. ``hooks`` are those of the family that is loaded."""

    def __init__(self, hooks: FamilySpec) -> None:
        self._hooks = hooks

    @default
    def default_params(self, size: str | None) -> DecoderParams:
        return self._size(size).params

    @default
    def hub_repo(self, size: str | None) -> str | None:
        return self._size(size).hub_repo

    @default
    def load_checkpoint(
        self, source: str, revision: str | None, params: Path | None, progress: Progress
    ) -> Checkpoint:
        from llmx.checkpoint import open_checkpoint

        return open_checkpoint(source, revision=revision, params=params, progress=progress)

    @default
    def params_from_hf(self, config: Mapping[str, Any]) -> DecoderParams:
        from llmx.model.hf_config import decoder_params

        return decoder_params(config)

    @default
    def build_model(
        self, params: DecoderParams, ops: ModelOps, build: BuildOptions
    ) -> torch.nn.Module:
        from llmx.model.decoder import Decoder

        return Decoder(params, ops, build)

    @default
    def chat_template(self, checkpoint: Checkpoint) -> str | None:
        return checkpoint.chat_template()

    @default
    def default_backend(self) -> str:
        from llmx.plugins import BACKENDS, installed

        names = [plugin.name for plugin in installed(BACKENDS)]
        if len(names) != 1:
            raise ConfigError(
                "no backend is named",
                remedy=f"use --backend NAME, one of: {', '.join(names)}"
                if names
                else "install one: backends are packages usually called llmx-backend-NAME",
            )
        return names[0]

    def _size(self, size: str | None) -> ModelSize:
        sizes = self._hooks.sizes()
        return find_size(sizes, match_size(size, sizes) if size is not None else None)


class BackendDefaults:
    """What holds for most backends, and for exports without one."""

    @default
    def recipes(self) -> Mapping[str, Recipe]:
        from llmx.config.recipe import Recipe

        settings = {
            "model.use_kv_cache": True,
            "export.max_seq_length": None,
            "export.max_context_length": None,
        }
        return {"default": Recipe("A KV cache and the weights as they are.", settings)}

    @default
    def check(self, job: ExportJob) -> None:
        if job.backend.name is None:
            undelegated.check(job)

    @default
    def model_ops(self, job: ExportJob) -> ModelOps:
        from llmx.model.ops import ops_for

        return undelegated.model_ops(job) if job.backend.name is None else ops_for(job)

    @default
    def quantizers(self, job: ExportJob) -> Mapping[str, Callable[[], Any]]:
        return {}

    @default
    def partitioners(self, job: ExportJob) -> Sequence[Any]:
        return ()

    @default
    def edge_passes(self, job: ExportJob) -> Sequence[Any]:
        return ()

    @default
    def joins_methods(self) -> bool:
        return False

    @default
    def program_config(self, job: ExportJob) -> ExecutorchBackendConfig:
        from llmx.lower.program import default_program_config

        return default_program_config()
