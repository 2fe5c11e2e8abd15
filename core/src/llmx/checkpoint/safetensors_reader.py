"""Checkpoints in the safetensors format, in one file or several.

Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.companions import Companions, special_tokens
from llmx.checkpoint.unpacking import unpacked
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch


@frozen(kw_only=True, slots=False)
class SafetensorsCheckpoint(Checkpoint):
    """``shard_of`` gives the file that holds each tensor."""

    shard_of: Mapping[str, Path]

    def read(self, name: str) -> torch.Tensor:
        self.require_float(name)
        return self.read_raw(name)

    def read_raw(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError, safe_open

        shard = self.shard_of[name]
        # Opened for each tensor: closing unmaps the file, so that memory follows what is in use.
        try:
            with safe_open(str(shard), framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{shard}: cannot read tensor {name}: {error}") from error
        return tensor

    def special_tokens(self) -> Mapping[str, int]:
        return special_tokens(self.tokenizer_file)


def open_safetensors(
    files: Iterable[Path],
    companions: Companions,
    *,
    source: str,
    revision: str | None,
    index: Mapping[str, Path] | None = None,
) -> Checkpoint:
    """Read the headers of ``files`` and check that the files are complete.

    Args:
        index: which file should hold each tensor; checked against the headers.
    """
    files = tuple(sorted(files))
    tensors: dict[str, TensorInfo] = {}
    shard_of: dict[str, Path] = {}
    metadata = []
    for path in files:
        header, added = _read_header(path)
        metadata.append(added)
        for name, info in header.items():
            if name in tensors:
                raise CheckpointError(
                    f"{source}: tensor {name} is in both {shard_of[name].name} and {path.name}",
                    remedy="Name the one file to use.",
                )
            tensors[name] = info
            shard_of[name] = path
    for name, path in (index or {}).items():
        if shard_of.get(name) != path:
            raise CheckpointError(
                f"{source}: the index says that {path.name} holds {name}, but it does not",
                remedy="Fetch the checkpoint again: index and shards do not belong together.",
            )
    described = companions.describe(tensors)
    checkpoint = SafetensorsCheckpoint(
        source=source,
        layout=described.layout,
        files=files,
        tensors=tensors,
        config=described.config,
        generation_config=companions.generation_config,
        tokenizer_config=companions.tokenizer_config,
        tokenizer_file=companions.tokenizer_file,
        interleaved_qk=described.interleaved_qk,
        revision=revision,
        shard_of=shard_of,
    )
    return unpacked(checkpoint, metadata)


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], Mapping[str, str]]:
    """Tensors, and the metadata that the writer added."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            tensors = {
                name: TensorInfo(tuple(part.get_shape()), part.get_dtype().lower())
                for name, part in slices.items()
            }
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file: {error}",
            remedy="Fetch the file again: it is truncated or damaged.",
        ) from error
