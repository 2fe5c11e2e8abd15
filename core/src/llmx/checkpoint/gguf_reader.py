"""Checkpoints in GGUF, the single-file format with block-quantized tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

from attrs import frozen

from llmx.checkpoint.base import Checkpoint, TensorInfo, TokenizerSections
from llmx.checkpoint.gguf_blocks import integer_weight
from llmx.checkpoint.gguf_metadata import (
    config_from_metadata,
    generation_config_from_metadata,
    tokenizer_config_from_metadata,
)
from llmx.checkpoint.gguf_tokenizer import control_tokens, write_tokenizer_json
from llmx.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmx.checkpoint.integers import IntegerWeight

ARRAY_HEAD = 12
"""Bytes of an array's type and length."""
LENGTH = Struct("=Q")
"""Of a string, before it."""
STORED_AS_FLOAT = ("F64", "F32", "F16", "BF16")
SPLIT_NAME = re.compile(r"-\d{5}-of-(\d{5})$")


@frozen(kw_only=True, slots=False)
class GgufCheckpoint(Checkpoint):
    """``metadata`` holds the file's key-value pairs, ``entries`` its tensors' ``mapped`` bytes."""

    metadata: Mapping[str, Any]
    entries: Mapping[str, Any]
    mapped: mmap.mmap

    def read(self, name: str) -> torch.Tensor:
        return _to_torch(self.source, self._entry(name))

    def read_stored(self, name: str) -> torch.Tensor | IntegerWeight:
        entry = self._entry(name)
        integers = integer_weight(entry)
        return _to_torch(self.source, entry) if integers is None else integers

    def _entry(self, name: str) -> Any:
        if name not in self.entries:
            raise CheckpointError(f"{self.source} has no tensor {name}")
        # What was read before would stay in memory, in the end all of the file.
        self.mapped.madvise(mmap.MADV_DONTNEED)
        return self.entries[name]

    def special_tokens(self) -> Mapping[str, int]:
        return control_tokens(self.metadata)

    def write_tokenizer(self, folder: Path, sections: TokenizerSections) -> Path | None:
        if self.tokenizer_file is not None:
            return super().write_tokenizer(folder, sections)
        return write_tokenizer_json(self.source, self.metadata, folder, sections)


def open_gguf(
    path: Path, *, source: str, revision: str | None, tokenizer_file: Path | None = None
) -> GgufCheckpoint:
    """Read the header and map the tensors' bytes into memory.

    Args:
        tokenizer_file: a ``tokenizer.json`` that came with the file; it says more than the header.
    """
    _refuse_split_name(path)
    try:
        reader = _reader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # interpreting damaged bytes can fail in any way
        raise CheckpointError(
            f"{path} is not a complete GGUF file: {error}",
            remedy="Fetch the file again: it is truncated or damaged.",
        ) from error
    if reader.byte_order != "I":
        raise CheckpointError(
            f"{path} was written for machines of the other byte order",
            remedy="Fetch the file for this machine's byte order.",
        )
    if metadata.get("split.count", 1) > 1:
        raise _split_error(path, metadata["split.count"])
    entries = {tensor.name: tensor for tensor in reader.tensors}
    tensors = {
        name: TensorInfo(
            tuple(int(size) for size in reversed(entry.shape)), entry.tensor_type.name.lower()
        )
        for name, entry in entries.items()
    }
    rope_factors = {
        name: _to_torch(source, entries[name]).tolist()
        for name in ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
        if name in entries
    }
    return GgufCheckpoint(
        source=source,
        layout="gguf",
        files=(path,),
        tensors=tensors,
        config=config_from_metadata(source, metadata, tensors, rope_factors),
        generation_config=generation_config_from_metadata(metadata),
        tokenizer_config=tokenizer_config_from_metadata(metadata),
        tokenizer_file=tokenizer_file,
        interleaved_qk=None,
        revision=revision,
        metadata=metadata,
        entries=entries,
        mapped=reader.mapped,
    )


def _reader(path: Path) -> Any:
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """Looks at the mapped file as a plain array: slices of a ``memmap`` cost far more.

        Arrays are read at once. Vocabularies have a hundred thousand strings, of each of which the
        package makes four arrays.
        """

        @property
        def data(self) -> np.ndarray[Any, Any]:
            return self._data

        @data.setter
        def data(self, memmap: np.memmap[Any, Any]) -> None:
            self.mapped, self._data = memmap.base, np.asarray(memmap)

        def _get_field_parts(
            self, orig_offs: int, raw_type: int
        ) -> tuple[int, list[Any], list[int], list[Any]]:
            array, string = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING
            if raw_type != array or self.byte_order != "I":
                return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
            (kind,) = self._get(orig_offs, np.uint32)
            (count,) = self._get(orig_offs + 4, np.uint64)
            start, kind = orig_offs + ARRAY_HEAD, gguf.GGUFValueType(int(kind))
            if kind == string:
                values, end = _strings(self._data, start, int(count))
            elif kind in self.gguf_scalar_to_np:
                values = [self._get(start, self.gguf_scalar_to_np[kind], int(count))]
                end = start + int(count) * values[0].itemsize
            else:
                return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
            if end > len(self._data):
                raise ValueError("an array reaches beyond its end")
            types = [array, kind] if count else [array]
            return end - orig_offs, values, list(range(len(values))), types

    return Reader(path)


def _strings(data: np.ndarray[Any, Any], at: int, count: int) -> tuple[list[Any], int]:
    """The bytes of ``count`` strings that follow each other from ``at`` on, and where they end."""
    content, found = data.data, []
    for _ in range(count):
        begin = at + LENGTH.size
        (length,) = LENGTH.unpack(content[at:begin])
        at = begin + length
        found.append(content[begin:at])
    return found, at


def _to_torch(source: str, entry: Any) -> torch.Tensor:
    """Float types as stored, everything else dequantized to fp32; always a copy of the bytes."""
    import gguf
    import numpy as np
    import torch

    kind = entry.tensor_type.name
    if kind == "BF16":
        shape = tuple(int(size) for size in reversed(entry.shape))
        words: np.ndarray[Any, Any] = np.array(entry.data).view(np.int16)
        return torch.from_numpy(words.reshape(shape)).view(torch.bfloat16)
    if kind in STORED_AS_FLOAT:
        return torch.from_numpy(np.array(entry.data))
    try:
        return torch.from_numpy(gguf.dequantize(entry.data, entry.tensor_type))
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{source}: tensor {entry.name} is stored as {kind.lower()}, which cannot be read",
            remedy="Use a GGUF file with another quantization.",
        ) from error


def _refuse_split_name(path: Path) -> None:
    match = SPLIT_NAME.search(path.stem)
    if match and int(match[1]) > 1:
        raise _split_error(path, int(match[1]))


def _split_error(path: Path, count: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is one of {count} parts of a split GGUF file",
        remedy="Join them first: gguf-split --merge FIRST_PART OUTPUT.",
    )
