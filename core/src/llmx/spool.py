"""Weights that wait on disk instead of in memory: mapped files, read again when they are used."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from weakref import WeakValueDictionary

import torch
from attrs import define, field
from torch import Tensor, nn

from llmx.memory import give_back
from llmx.skeleton.pieces import plain_tensors, raw_bytes

SMALLEST = 1 << 16
"""Bytes from which on a weight is worth a file."""
PAUSE = 0.2
"""Seconds in which no more is read than may stay."""
OFTEN = 1 << 25
"""Bytes after which memory is given back: doing so for every weight takes longer than the rest."""


@define
class Spool:
    """Puts tensors into files of ``folder``.

    They keep their identity and their values; memory is needed only for what is in use.
    """

    folder: Path
    _maps: WeakValueDictionary[int, mmap.mmap] = field(factory=WeakValueDictionary, init=False)
    """By address."""
    _used: int = field(default=0, init=False)
    """Bytes written or read since memory was given back."""

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
            self._give_back_after(self._move(tensors))

    def let_go(self) -> None:
        """Give back the memory of what was read; it is read again when it is used."""
        self._used = 0
        for reference in self._maps.valuerefs():
            mapped = reference()
            if mapped is not None:
                mapped.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def letting_go_meanwhile(self) -> Iterator[None]:
        """Give memory back again and again while somebody reads the weights one after the other."""
        done = Event()

        def let_go() -> None:
            while not done.wait(PAUSE):
                self.let_go()

        with ThreadPoolExecutor(1, thread_name_prefix="llmx-spool") as beside:
            beside.submit(let_go)
            try:
                yield
            finally:
                done.set()

    @contextmanager
    def letting_go(self, model: nn.Module) -> Iterator[None]:
        """Give memory back while the parts of ``model`` that have weights are called."""
        hooks = [
            each.register_forward_hook(partial(self._read, _bytes(each)))
            for each in model.modules()
            if next(each.parameters(False), None) is not None
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self.let_go()
            give_back()

    def _read(self, count: int, *call: object) -> None:
        self._give_back_after(count)

    def _give_back_after(self, count: int) -> None:
        self._used += count
        if self._used >= OFTEN:
            self.let_go()
            give_back()

    def _move(self, tensors: Sequence[Tensor]) -> int:
        """Tensors of one storage: the stretch of it that they cover becomes a file of this size."""
        spans = [_span(each) for each in tensors]
        start, end = min(first for first, _ in spans), max(last for _, last in spans)
        if end - start < SMALLEST:
            return 0
        stretch = torch.empty(0, dtype=torch.uint8).set_(tensors[0].untyped_storage())[start:end]
        with tempfile.TemporaryFile(dir=self.folder) as file:
            # Written, not copied into the map: that would cost a fault for every page.
            file.write(raw_bytes(stretch))
            file.flush()
            mapped = mmap.mmap(file.fileno(), end - start)
        held = torch.frombuffer(mapped, dtype=torch.uint8)
        for tensor, (first, _) in zip(tensors, spans, strict=True):
            typed = held[first - start :]
            typed = typed[: len(typed) // tensor.itemsize * tensor.itemsize].view(tensor.dtype)
            tensor.data = typed.as_strided(tensor.shape, tensor.stride())
        self._maps[held.data_ptr()] = mapped
        return end - start


@contextmanager
def spool_beside(folder: Path) -> Iterator[Spool]:
    """A spool on the disk of ``folder``, which need not have been written to yet."""
    with tempfile.TemporaryDirectory(prefix=".llmx-weights-", dir=folder.parent) as place:
        yield Spool(Path(place))


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte of a tensor within its storage, and the one behind the last."""
    first = tensor.storage_offset()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum((int(size) - 1) * int(step) for size, step in sizes)
    return int(first) * tensor.itemsize, int(last + 1) * tensor.itemsize


def _bytes(part: nn.Module) -> int:
    """Of the weights that are the part's own."""
    tensors = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    plain = (each for tensor in tensors for _, each in plain_tensors("", tensor))
    return sum(each.numel() * each.itemsize for each in plain)


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            for _, plain in plain_tensors("", tensor):
                yield plain
