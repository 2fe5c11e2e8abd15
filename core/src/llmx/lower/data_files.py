"""Weights that leave the program for files beside it: the model's own, and those of adapters.

What an adapter adds has to leave no trace in the file with the model's weights, so that programs
with different adapters, or with none, have one and the same such file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from attrs import field, frozen
from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig
from executorch.exir._serialize._named_data_store import NamedDataStore, NamedDataStoreOutput
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node

from llmx.config.data_files import SUFFIX, data_names
from llmx.config.schema import ExportOptions
from llmx.errors import LoweringError
from llmx.lower.payload import DelegateData
from llmx.lower.program import with_programs
from llmx.lower.renamed import with_names
from llmx.model.adapted import AdaptedLinear

BASE, ADDED = "base", ("down", "up")
"""The parts of an ``AdaptedLinear``."""


@frozen
class Adapters:
    """What adapters add to the models of some methods.

    Attributes:
        paths: of the layers that have one, by method.
        keys: of each adapter's weights as named data, by method and layer; empty where the
            backend has none.
    """

    paths: Mapping[str, frozenset[str]]
    keys: Mapping[tuple[str, str], frozenset[str]] = field(repr=False)

    @classmethod
    def find(cls, models: Mapping[str, nn.Module], delegate_data: DelegateData) -> Adapters:
        """Those of the lowered models, by method; ``delegate_data`` is the backend's hook."""
        paths: dict[str, frozenset[str]] = {}
        keys: dict[tuple[str, str], frozenset[str]] = {}
        for method, model in models.items():
            layers = {
                path: each
                for path, each in model.named_modules()
                if isinstance(each, AdaptedLinear)
            }
            paths[method] = frozenset(layers)
            for path, layer in layers.items():
                data = [delegate_data(layer.get_submodule(part)) or {} for part in ADDED]
                keys[method, path] = frozenset(key for each in data for key, _ in each.values())
        return cls(paths, keys)

    def part(self, method: str, name: str) -> tuple[str, str, str] | None:
        """A weight's name in three: layer, part and rest; ``None`` if the layer has no adapter."""
        words = name.split(".")
        for at in range(1, len(words)):
            path = ".".join(words[:at])
            if path in self.paths[method]:
                return path, words[at], ".".join(words[at + 1 :])
        return None

    def adds(self, method: str, name: str) -> bool:
        """Whether a weight belongs to an adapter."""
        found = self.part(method, name)
        return found is not None and found[1] in ADDED

    def common_name(self, method: str, name: str) -> str:
        """A weight's name without regard to adapters, and one of its own for each of theirs."""
        found = self.part(method, name)
        if found is None:
            return name
        layer, part, rest = found
        return f"{layer}.{rest}" if part == BASE else f"{method}.{name}"


def moved_out(
    edge: EdgeProgramManager,
    models: Mapping[str, nn.Module],
    export: ExportOptions,
    delegate_data: DelegateData,
) -> tuple[EdgeProgramManager, Callable[[ExecutorchBackendConfig], ExecutorchBackendConfig]]:
    """The lowered methods with their weights bound for the files that ``export`` names.

    Args:
        edge: the lowered ``models``, a method each; named data are taken out of its delegates.
        delegate_data: the backend's hook.

    Returns:
        The methods, and what does the same to the weights that are no delegate's when a program is
        emitted with the configuration that it gives.

    Raises:
        LoweringError: the backend does not say which of its data are an adapter's.
    """
    adapters = Adapters.find(models, delegate_data)
    names = list(models)
    programs = {
        name: with_names(edge.exported_program(name), _common_names(adapters, name))
        for name in names
    }
    foundation, lora = _tag(export.foundation_weights_file), _tag(export.lora_weights_file)
    added = frozenset(key for keys in adapters.keys.values() for key in keys)
    outputs = [output for program in programs.values() for output in _outputs(program)]
    require_known(adapters, {key for output in outputs for key in output.pte_data})
    _sort_out(outputs, lambda key: lora if key in added else foundation)
    tags: dict[str, str | None] = {}
    for name in names:
        original = edge.exported_program(name).graph_signature
        for node, target in {**original.inputs_to_parameters, **original.inputs_to_buffers}.items():
            tags[node] = lora if adapters.adds(name, target) else foundation

    def with_tags(config: ExecutorchBackendConfig) -> ExecutorchBackendConfig:
        return dataclasses.replace(config, external_constants=lambda node: _tag_of(node, tags))

    return with_programs(edge, programs), with_tags


def require_files(export: ExportOptions, folder: Path, backend: str) -> None:
    """Raise :class:`LoweringError` if one of the files was not written."""
    for name in data_names(export):
        if not (folder / name).is_file():
            raise LoweringError(
                f"there is nothing to write to {name}: {backend} holds weights where they cannot "
                "be taken out",
                remedy="leave the weights in the program",
            )


def _common_names(adapters: Adapters, method: str) -> Callable[[str], str]:
    return lambda name: adapters.common_name(method, name)


def _tag(file: str | None) -> str | None:
    """ExecuTorch's word for a file."""
    return None if file is None else file.removesuffix(SUFFIX)


def _tag_of(node: Node, tags: Mapping[str, str | None]) -> str | None:
    return tags.get(node.name)


def require_known(adapters: Adapters, keys: Set[str]) -> None:
    """Refuse delegates whose data, by ``keys``, do not include those of each adapter.

    Raises:
        LoweringError: there are such data, and they would be taken for the model's own.
    """
    for (_, layer), added in adapters.keys.items():
        if keys and not (added and added <= keys):
            raise LoweringError(
                f"the weights of the adapter of {layer} are not found again in what the backend "
                "made of them",
                remedy="leave the weights in the program",
            )


def _sort_out(outputs: Sequence[NamedDataStoreOutput], tag_of: Callable[[str], str | None]) -> None:
    """Put the named data of all delegates in the order of their keys, each under its file.

    So the order depends neither on adapters nor on how the graph was cut up.
    """
    if not outputs:
        return
    found = {key: output for output in outputs for key in output.pte_data}
    store = NamedDataStore()
    for key in sorted(found):
        entry = found[key].pte_data[key]
        content = found[key].buffers[entry.buffer_index]
        store.add_named_data(key, content, entry.alignment, tag_of(key))
    for output in outputs:
        output.buffers, output.pte_data, output.external_data = [], {}, {}
    whole = store.get_named_data_store_output()
    first = outputs[0]
    first.buffers, first.pte_data = whole.buffers, whole.pte_data
    first.external_data = whole.external_data


def _outputs(program: ExportedProgram) -> Iterator[NamedDataStoreOutput]:
    for module in program.graph_module.modules():
        if isinstance(module, LoweredBackendModule) and module.named_data_store_output is not None:
            yield module.named_data_store_output
