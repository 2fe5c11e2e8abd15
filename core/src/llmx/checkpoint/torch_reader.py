"""Checkpoints written by ``torch.save``: Meta's ``.pth`` and Hugging Face's ``.bin`` files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo
from llmx.checkpoint.companions import Companions, special_tokens
from llmx.checkpoint.meta_shards import Pieces, collect_pieces
from llmx.checkpoint.unpacking import unpacked
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import torch

NESTED_UNDER = ("model", "state_dict")


@frozen(kw_only=True, slots=False)
class TorchCheckpoint(Checkpoint):
    """``pieces`` holds the memory-mapped pieces of each tensor."""

    pieces: Mapping[str, Pieces]

    def read(self, name: str) -> torch.Tensor:
        self.require_float(name)
        return self.read_raw(name)

    def read_raw(self, name: str) -> torch.Tensor:
        return self.pieces[name].join()

    def special_tokens(self) -> Mapping[str, int]:
        return special_tokens(self.tokenizer_file)


def open_torch(
    files: Iterable[Path],
    companions: Companions,
    *,
    source: str,
    revision: str | None,
    index: Mapping[str, Path] | None = None,
) -> Checkpoint:
    """Map the files into memory; no pickle code is run (``weights_only``).

    Several files hold either disjoint tensors, or Meta's model-parallel pieces of the same ones.

    Args:
        index: which file should hold each tensor; checked against what the files hold.
    """
    files = tuple(sorted(files))
    contents = {path: _load(path) for path in files}
    for name, path in (index or {}).items():
        if name not in contents[path]:
            raise CheckpointError(
                f"{source}: the index says that {path.name} holds {name}, but it does not",
                remedy="Fetch the checkpoint again: index and shards do not belong together.",
            )
    pieces = collect_pieces(source, list(contents.values()))
    tensors = {
        name: TensorInfo(piece.shape, _type_name(piece.parts[0])) for name, piece in pieces.items()
    }
    described = companions.describe(tensors)
    checkpoint = TorchCheckpoint(
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
        pieces=pieces,
    )
    return unpacked(checkpoint)


def _load(path: Path) -> dict[str, torch.Tensor]:
    import torch

    _require_torch_zip(path)
    if path.name.endswith(".safetensors"):
        # torch.load goes by this suffix and would take the content for what it is not.
        raise CheckpointError(
            f"{path} is a file of torch.save under the name of a safetensors file",
            remedy="Rename it to end in .pth.",
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors: its pickle wants to run code",
            remedy="Do not load it elsewhere either; ask its author for safetensors.",
        ) from error
    except Exception as error:  # interpreting damaged bytes can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read by torch.load: {reason}",
            remedy="Fetch the file again: it is truncated or damaged.",
        ) from error
    return _state_dict(path, content)


def _require_torch_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete file of torch.save: {error}",
            remedy="Fetch the file again: it is truncated or damaged.",
        ) from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a zip archive, but not one that torch.save wrote",
            remedy="Unpack it if it holds a checkpoint, and name what was inside.",
        )


def _state_dict(path: Path, content: Any) -> dict[str, torch.Tensor]:
    import torch

    for key in NESTED_UNDER:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor",
                remedy="Save the model's state_dict() alone.",
            )
    if not content:
        raise CheckpointError(f"{path} holds no tensors")
    return content


def _type_name(tensor: torch.Tensor) -> str:
    import torch

    short = {
        torch.float64: "f64",
        torch.float32: "f32",
        torch.float16: "f16",
        torch.bfloat16: "bf16",
    }
    return short.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
