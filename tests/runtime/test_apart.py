from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from runtime.apart import apart

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


async def paint(colour: str) -> str:
    before = COLOUR.get()
    COLOUR.set(colour)
    await asyncio.sleep(0)
    assert COLOUR.get() == colour
    return before


async def test_what_is_set_within_is_gone_and_what_was_set_before_is_seen() -> None:
    assert await apart(paint("red")) == "none"
    assert COLOUR.get() == "none"
    COLOUR.set("blue")
    assert await apart(paint("red")) == "blue"
    assert COLOUR.get() == "blue"


async def test_it_is_the_same_task() -> None:
    async def whose() -> object:
        await asyncio.sleep(0)
        return asyncio.current_task()

    assert await apart(whose()) is asyncio.current_task()


async def test_errors_come_out_and_those_of_what_is_waited_for_go_in() -> None:
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def work() -> None:
        try:
            await failing
        except OSError as error:
            seen.append(f"{COLOUR.get()}: {error}")
            COLOUR.set("red")
            await asyncio.sleep(0)
            raise ValueError("out") from error

    asyncio.get_running_loop().call_soon(failing.set_exception, OSError("in"))
    with pytest.raises(ValueError, match="out"):
        await apart(work())
    assert seen == ["none: in"]
    assert COLOUR.get() == "none"


async def test_a_cancellation_reaches_it_and_may_be_refused() -> None:
    inside = asyncio.Event()

    async def work() -> str:
        inside.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "refused"
        return "slept"

    task = asyncio.create_task(_awaited(work()))
    await inside.wait()
    task.cancel()
    assert await task == "refused"


async def test_a_timeout_within_it_ends_what_it_stands_around() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await apart(work())


def test_it_is_closed_with_the_one_that_awaits_it() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def outer() -> None:
        await apart(work())

    loop = asyncio.new_event_loop()
    coroutine = outer()
    loop.call_soon(lambda: coroutine.send(None))
    loop.call_soon(loop.stop)
    loop.run_forever()
    coroutine.close()
    loop.close()
    assert closed == [True]


async def _awaited(work: object) -> object:
    return await apart(work)  # type: ignore[arg-type]
