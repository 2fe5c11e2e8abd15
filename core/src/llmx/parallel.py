"""Independent pieces of work on all processors, each on one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call ``work`` for every item, in any order.

    PyTorch would share every single operator among its threads, which then wait for each other:
    on small tensors for most of the time, and far longer where another program has a processor.

    Raises:
        Exception: the first one that ``work`` raised.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, items):
                pass
    finally:
        torch.set_num_threads(threads)
