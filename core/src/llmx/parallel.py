"""Independent pieces of work on all processors, each on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
BLOCK = 1 << 17
"""Values of a matrix that are worked on at a time: passes over them stay within the cache."""


def map_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``work`` of every item, in their order.

    PyTorch would share every single operator among its threads, which then wait for each other:
    on small tensors for most of the time, and far longer where another program has a processor.

    Raises:
        Exception: the first one that ``work`` raised.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)


def row_blocks(shape: torch.Size) -> Iterator[slice]:
    """The rows of a matrix [rows, width], some at a time."""
    height, width = shape
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))
