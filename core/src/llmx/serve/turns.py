"""One model, many clients: one answer at a time, and a short queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from llmx.run.generate import Generation
from llmx.run.interrupt import Interrupt
from llmx.serve.errors import ApiError

Work = Callable[[Callable[[str], None], Interrupt], Generation]
RETRY_AFTER = "5"  # seconds


class Turns:
    """Runs pieces of work one after another in a thread of its own.

    The order is that of arrival. Work that nobody waits for any more is interrupted, or not begun.
    """

    def __init__(self, waiting: int) -> None:
        """Let up to this many requests wait."""
        self._most = waiting
        self._waiting = 0
        self._lock = asyncio.Lock()
        self._ending = False
        self._interrupt = Interrupt()  # of the work at hand
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llmx-model")

    async def run(self, work: Work) -> AsyncGenerator[str | Generation, None]:
        """Pieces of text as they are made, and at last how it went.

        Closing it ends the work; it returns when the model is idle.

        Args:
            work: gets whom to tell each piece, and what interrupts it.

        Raises:
            ApiError: too many wait already, or the server ends.
        """
        await self._begin()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        interrupt = self._interrupt = Interrupt()
        if self._ending:
            interrupt.request()

        def tell(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def end(_: object) -> None:
            # Not when everything is read: a slow reader must not keep the others waiting.
            self._lock.release()
            pieces.put_nowait(None)

        future = loop.run_in_executor(self._thread, work, tell, interrupt)
        future.add_done_callback(end)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            outcome = await future
            if outcome.stop_reason == "interrupted":
                raise ApiError(503, "the server is ending")
            yield outcome
        finally:
            interrupt.request()
            await asyncio.wait([future])
            future.exception()  # seen by whoever waited, if anybody did

    async def _begin(self) -> None:
        """Wait for the model."""
        if self._lock.locked() and self._waiting >= self._most:
            raise ApiError(
                429,
                "the model is busy and the queue is full; try again later",
                code="queue_full",
                headers={"Retry-After": RETRY_AFTER},
            )
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1

    def end(self) -> None:
        """Interrupt all work, present and future; may be called from a signal handler."""
        self._ending = True
        self._interrupt.request()

    def close(self) -> None:
        """Wait until the model is idle, and take no more work."""
        self._thread.shutdown(cancel_futures=True)
