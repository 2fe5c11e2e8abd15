"""Independent pieces of work on all processors, each on one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
BLOCK = 1 << 17
"""Values of a matrix that are worked on at a time: passes over them stay within the cache."""


def map_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``work`` of every item, in their order; each item is one thread's alone.

    Raises:
        Exception: one that ``work`` raised; no further item is begun then.
    """
    todo = list(enumerate(items))
    done: dict[int, R] = {}
    threads = torch.get_num_threads()

    def take() -> None:
        # Whoever is free takes the next: popping from a list is one step for Python.
        while todo:
            try:
                at, item = todo.pop()
            except IndexError:
                return
            try:
                done[at] = work(item)
            except BaseException:
                todo.clear()
                raise

    todo.reverse()
    helpers = min(threads, len(todo)) - 1
    with one_thread():
        others = [_pool(threads).submit(take) for _ in range(helpers)]
        try:
            take()
        finally:
            # One that has not begun is not waited for: the pool may be busy with whoever called.
            failures = [each.exception() for each in others if not each.cancel()]
    for failure in failures:
        if failure is not None:
            raise failure
    return [done[at] for at in range(len(done))]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute every operator in the thread that calls it.

    It would share every single one among its threads, which then wait for each other: on small
    tensors for most of the time, and far longer where another program has a processor.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: making them takes longer than many a matrix."""
    return ThreadPoolExecutor(threads, thread_name_prefix="llmx-parallel")


def row_blocks(shape: torch.Size) -> Iterator[slice]:
    """The rows of a matrix [rows, width], some at a time."""
    height, width = shape
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))
