from __future__ import annotations

import asyncio

from aos.mcp.pace import Pace


async def test_the_first_of_a_slow_pace_does_not_wait() -> None:
    pace = Pace(0.02)
    async with asyncio.timeout(10):
        await pace.wait()


async def test_who_gives_up_takes_no_turn() -> None:
    pace = Pace(10)
    for _ in range(10):
        await pace.wait()
    impatient = [asyncio.create_task(pace.wait()) for _ in range(1000)]
    await asyncio.sleep(0)
    for task in impatient:
        task.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)
    # A thousand turns would be a hundred seconds.
    async with asyncio.timeout(20):
        await pace.wait()
