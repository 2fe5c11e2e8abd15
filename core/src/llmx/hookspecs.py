"""The seam between llmx and its plugins: every hook, with when it is called and what it gives.

A plugin (entry-point group ``llmx.families`` or ``llmx.backends``) has functions of these names
marked ``@llmx.hookimpl``, which may take fewer arguments; torch is imported inside of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from executorch.exir import ExecutorchBackendConfig
    from torch import Tensor, export, nn

    from llmx.checkpoint import Checkpoint, TokenIds, WeightMap
    from llmx.config import ExportJob, Recipe
    from llmx.model.ops import BuildOptions, ModelOps
    from llmx.model.params import DecoderParams, ModelSize
    from llmx.progress import Progress

PROJECT = "llmx"
hookspec = pluggy.HookspecMarker(PROJECT)
F = TypeVar("F", bound=Callable[..., object])


def hookimpl(function: F) -> F:
    """Mark a plugin's function as the implementation of the hook of the same name."""
    return pluggy.HookimplMarker(PROJECT)(function)


class FamilySpec(Protocol):
    """Hooks of a model family. All are first-result: the family's answer wins over core's."""

    @hookspec(firstresult=True)
    def sizes(self) -> Mapping[str, ModelSize]:
        """Published sizes by name, the default one first.

        When: by ``llmx models FAMILY`` and at the start of every export. Required.
        """

    @hookspec(firstresult=True)
    def default_params(self, size: str | None) -> DecoderParams:
        """Parameters of a published size; ``None`` is the family's default size.

        When: before anything is loaded. Core's default looks the size up in ``sizes()``.
        """

    @hookspec(firstresult=True)
    def hub_repo(self, size: str | None) -> str | None:
        """Hub id that holds the weights of this size.

        When: no checkpoint was named. Core's default takes it from ``sizes()``.
        """

    @hookspec(firstresult=True)
    def load_checkpoint(
        self, source: str, revision: str | None, params: Path | None, progress: Progress
    ) -> Checkpoint:
        """Open a path or hub id lazily: names, shapes and dtypes now, bytes only when asked.

        When: once per export. Core's default recognises safetensors, .pth and GGUF by content.
        """

    @hookspec(firstresult=True)
    def match_config(self, config: Mapping[str, Any]) -> int:
        """0: another architecture, 1: this one, 2: this very family; -1: if no other reads it.

        When: a checkpoint's family is to be found or checked, before ``params_from_hf``.
        """

    @hookspec(firstresult=True)
    def params_from_hf(self, config: Mapping[str, Any]) -> DecoderParams:
        """Parameters from a checkpoint's own ``config.json`` fields.

        When: once, after ``load_checkpoint``. Core's default refuses what it cannot honour.
        """

    @hookspec(firstresult=True)
    def convert_weights(
        self, checkpoint: Checkpoint, params: DecoderParams
    ) -> WeightMap | Iterable[tuple[str, Tensor]]:
        """How the checkpoint's tensors become the decoder's: a declarative map, or the tensors.

        When: once, before any byte is read. Required. An iterable has (name, tensor) by layers.
        """

    @hookspec(firstresult=True)
    def token_ids(self, checkpoint: Checkpoint | None) -> TokenIds:
        """The bos id and all eos ids: the checkpoint's own where it has them, else as published.

        When: once per export; ``None`` for random weights. Required.
        """

    @hookspec(firstresult=True)
    def gguf_tokenizer(self, name: str) -> Mapping[str, Any] | None:
        """Sections of ``tokenizer.json`` (``pre_tokenizer``, …) that GGUF files only name.

        When: a GGUF checkpoint's tokenizer is converted.
        """

    @hookspec(firstresult=True)
    def chat_template(self, checkpoint: Checkpoint) -> str | None:
        """The Jinja chat template. Core's default is the checkpoint's own.

        When: the artifact is written.
        """

    @hookspec(firstresult=True)
    def build_model(self, params: DecoderParams, ops: ModelOps, build: BuildOptions) -> nn.Module:
        """The eager model: ``forward(tokens [1, S], input_pos [1])`` to logits.

        When: once, on the meta device. Core's default is ``llmx.model.Decoder``.
        """

    @hookspec(firstresult=True)
    def default_backend(self) -> str:
        """Name of the backend that this distribution depends on.

        When: neither a config file nor ``--backend`` names one.
        """


class BackendSpec(Protocol):
    """Hooks of a backend."""

    @hookspec(firstresult=True)
    def options(self) -> type:
        """An attrs class; its fields become ``backend.<name>.*`` keys and flags.

        When: the configuration is loaded. Must not import torch.
        """

    @hookspec(firstresult=True)
    def recipes(self) -> Mapping[str, Recipe]:
        """Named starting points; ``default`` is the one if no file says more.

        When: the configuration is resolved. Must not import torch.
        """

    @hookspec
    def check(self, job: ExportJob) -> None:
        """Refuse a job that this backend cannot do: raise ``ConfigError`` with a remedy.

        When: after the configuration is resolved, before anything is loaded.
        """

    @hookspec(firstresult=True)
    def model_ops(self, job: ExportJob) -> ModelOps:
        """The parts that the decoder is built with: norm, rope and attention flavours.

        When: once, before the decoder is built. Core's default is plain PyTorch.
        """

    @hookspec(firstresult=True)
    def quantizers(self, job: ExportJob) -> Mapping[str, Callable[[], Any]]:
        """Makers of pt2e quantizers by name: torchao's, or (graph, calls) to the quantized graph.

        When: ``quantization.pt2e_quantize`` is checked, and once the weights are loaded.
        """

    @hookspec(firstresult=True)
    def partitioners(self, job: ExportJob) -> Sequence[Any]:
        """ExecuTorch partitioners, in the order in which they are applied.

        When: at lowering.
        """

    @hookspec(firstresult=True)
    def delegate_data(self, module: nn.Module) -> Mapping[str, tuple[str, bytes]] | None:
        """A module's weights as this backend's payloads refer to them: role to (key, bytes).

        When: a lowered layer is repeated, or a kept program filled. Without it all is lowered.
        """

    @hookspec(firstresult=True)
    def edge_passes(self, job: ExportJob, program: export.ExportedProgram) -> Sequence[Any]:
        """Passes over the edge program before partitioning; empty where there are none.

        When: at lowering, with the ``program`` to be lowered, which may be changed in place.
        """

    @hookspec(firstresult=True)
    def joins_methods(self, job: ExportJob) -> bool:
        """Whether methods are lowered at once, so that delegates may share what they hold.

        When: at lowering, for a program with several methods. Core's default is no: each is
        lowered by itself, and named data of equal keys are stored once.
        """

    @hookspec(firstresult=True)
    def program_config(self, job: ExportJob) -> ExecutorchBackendConfig:
        """How the edge program becomes an ExecuTorch program.

        When: after delegation. Core's default plans memory for the longest input.
        """

    @hookspec(firstresult=True)
    def runtime(self) -> str | None:
        """``None`` if this machine can execute what the backend produces, else why not.

        When: by checks after an export and by ``llmx backends``.
        """
