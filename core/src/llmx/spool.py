"""Weights that wait on disk instead of in memory: mapped files, read again when they are used."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from attrs import define, field
from torch import Tensor, nn

from llmx.memory import give_back
from llmx.skeleton.pieces import plain_tensors

SMALLEST = 1 << 16
"""Bytes from which on a weight is worth a file."""


@define
class Spool:
    """Puts tensors into files of ``folder``.

    They keep their identity and their values; memory is needed only for what is in use.
    """

    folder: Path
    _maps: WeakValueDictionary[int, mmap.mmap] = field(factory=WeakValueDictionary, init=False)
    """By address."""

    def hold(self, *modules: nn.Module) -> None:
        """Put the parameters and buffers of ``modules`` on disk; those with common memory stay so.

        Buffers that the model writes to are written there, too.
        """
        by_storage: dict[int, list[Tensor]] = {}
        for tensor in _tensors(modules):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._maps and not tensor.is_meta:
                by_storage.setdefault(storage.data_ptr(), []).append(tensor)
        for tensors in by_storage.values():
            self._move(tensors)
        self.let_go()
        give_back()

    def let_go(self) -> None:
        """Give back the memory of what was read; it is read again when it is used."""
        for each in self._maps.values():
            each.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def letting_go(self, model: nn.Module) -> Iterator[None]:
        """Give memory back whenever a part of ``model`` that has weights has been called."""
        parts = [each for each in model.modules() if next(each.parameters(False), None) is not None]
        hooks = [each.register_forward_hook(lambda *_: self.let_go()) for each in parts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            give_back()

    def _move(self, tensors: Sequence[Tensor]) -> None:
        """Tensors of one storage: the stretch of it that they cover becomes a file."""
        spans = [_span(each) for each in tensors]
        start, end = min(first for first, _ in spans), max(last for _, last in spans)
        if end - start < SMALLEST:
            return
        with tempfile.TemporaryFile(dir=self.folder) as file:
            _reserve(file.fileno(), end - start)
            mapped = mmap.mmap(file.fileno(), end - start)
        held = torch.frombuffer(mapped, dtype=torch.uint8)
        stretch = torch.empty(0, dtype=torch.uint8).set_(tensors[0].untyped_storage())[start:end]
        held.copy_(stretch)
        for tensor, (first, _) in zip(tensors, spans, strict=True):
            typed = held[first - start :]
            typed = typed[: len(typed) // tensor.itemsize * tensor.itemsize].view(tensor.dtype)
            tensor.data = typed.as_strided(tensor.shape, tensor.stride())
        self._maps[held.data_ptr()] = mapped


@contextmanager
def spool_beside(folder: Path) -> Iterator[Spool]:
    """A spool on the disk of ``folder``, which need not have been written to yet."""
    with tempfile.TemporaryDirectory(prefix=".llmx-weights-", dir=folder.parent) as place:
        yield Spool(Path(place))


def _reserve(file: int, count: int) -> None:
    """Give a file its size; a disk that is full is an error here, and a crash later."""
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None:
        os.ftruncate(file, count)
    else:
        reserve(file, 0, count)


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte of a tensor within its storage, and the one behind the last."""
    first = tensor.storage_offset()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum((int(size) - 1) * int(step) for size, step in sizes)
    return int(first) * tensor.itemsize, int(last + 1) * tensor.itemsize


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            for _, plain in plain_tensors("", tensor):
                yield plain
