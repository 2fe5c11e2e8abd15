"""Requests take turns at the model, whatever their clients do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from llmx.errors import LlmxError
from llmx.run.generate import Generation
from llmx.run.interrupt import Interrupt
from llmx.run.tokens import StopReason
from llmx.serve.errors import ApiError
from llmx.serve.turns import Turns, Work

SOON = 30.0  # seconds


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns(waiting=1)
    yield made
    made.close()


def done(text: str, stop_reason: StopReason = "end") -> Generation:
    return Generation(
        text=text, prompt_tokens=1, cached_tokens=0, generated_tokens=1, first_token_seconds=0.1,
        prefill_rate=None, decode_rate=None, stop_reason=stop_reason,
    )  # fmt: skip


def saying(*pieces: str) -> Work:
    def work(tell: Callable[[str], None], interrupt: Interrupt) -> Generation:
        for piece in pieces:
            tell(piece)
        return done("".join(pieces))

    return work


def until_interrupted(tell: Callable[[str], None], interrupt: Interrupt) -> Generation:
    tell("begun")
    while not interrupt.requested:
        threading.Event().wait(0.01)
    return done("begun", "interrupted")


def test_pieces_come_first_and_the_outcome_last(turns: Turns) -> None:
    async def main() -> None:
        assert [each async for each in turns.run(saying("a", "b"))] == ["a", "b", done("ab")]

    asyncio.run(main())


def test_a_slow_reader_keeps_nobody_waiting(turns: Turns) -> None:
    async def main() -> None:
        slow = turns.run(saying("a", "b", "c"))
        assert await anext(slow) == "a"
        async with asyncio.timeout(SOON):
            assert [each async for each in turns.run(saying("x"))] == ["x", done("x")]
        assert [each async for each in slow] == ["b", "c", done("abc")]

    asyncio.run(main())


def test_who_leaves_the_queue_takes_no_turn(turns: Turns) -> None:
    async def main() -> None:
        talking = turns.run(until_interrupted)
        assert await anext(talking) == "begun"
        begun: list[str] = []

        def work(tell: Callable[[str], None], interrupt: Interrupt) -> Generation:
            begun.append("begun")
            return done("")

        leaving = asyncio.ensure_future(anext(turns.run(work)))
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="queue is full"):
            await anext(turns.run(saying("x")))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await talking.aclose()
        async with asyncio.timeout(SOON):
            assert await anext(turns.run(saying("x"))) == "x"
        assert begun == []

    asyncio.run(main())


def test_an_error_is_told_and_the_next_request_served(turns: Turns) -> None:
    def fail(tell: Callable[[str], None], interrupt: Interrupt) -> Generation:
        raise LlmxError("the runtime failed")

    async def main() -> None:
        with pytest.raises(LlmxError, match="the runtime failed"):
            await anext(turns.run(fail))
        assert await anext(turns.run(saying("x"))) == "x"

    asyncio.run(main())


def test_at_the_end_nobody_is_kept_waiting(turns: Turns) -> None:
    async def main() -> None:
        talking = turns.run(until_interrupted)
        assert await anext(talking) == "begun"
        waiting = asyncio.ensure_future(_all(turns.run(until_interrupted)))
        await asyncio.sleep(0)
        turns.end()
        async with asyncio.timeout(SOON):
            for each in (_all(talking), waiting):
                with pytest.raises(ApiError, match="ending"):
                    await each

    asyncio.run(main())


async def _all(events: AsyncGenerator[str | Generation, None]) -> None:
    async for _ in events:
        pass
