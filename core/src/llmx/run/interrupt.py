"""An answer that is to end early: remembered, and acted upon between two tokens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """Whether the answer is no longer wanted; any thread may say so."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """End the answer. Serves as a signal handler too."""
        self.requested = True


@contextmanager
def deferred_interrupt(interrupt: Interrupt) -> Iterator[None]:
    """Turn Ctrl-C into a request; nothing is raised.

    An exception in the middle of a call would leave a KV cache that nobody knows the content of.
    Threads other than the main one get no signals and need no handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, interrupt.request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
