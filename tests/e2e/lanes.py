"""Benches side by side, each with a stack of its own, on which jobs are done that kill processes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import get_args

import pytest

from tests.e2e.faults import ENDS_WITHIN, Bench, Outcome, Way, bench, table

BUS_ONLY = {"before-send-reply", "after-send-reply", "before-send-park", "after-send-park"}
"""Nobody is written to, and nothing is parked, for a message that came over HTTP."""

Job = Callable[[Bench], Awaitable[Outcome]]


@asynccontextmanager
async def benches(tmp_path_factory: pytest.TempPathFactory, count: int) -> AsyncIterator[list[Bench]]:
    async with AsyncExitStack() as stack:
        folders = [tmp_path_factory.mktemp("bench") for _ in range(count)]
        made = await asyncio.gather(*(stack.enter_async_context(bench(folder)) for folder in folders))
        yield list(made)


async def on_all(lanes: list[Bench], jobs: Iterable[Job]) -> list[Outcome]:
    """Does all jobs, each on the next bench that is free; in the order of the jobs."""
    waiting = list(enumerate(jobs))[::-1]
    outcomes: dict[int, Outcome] = {}

    async def work(lane: Bench) -> None:
        while waiting:
            number, job = waiting.pop()
            outcomes[number] = await job(lane)
            async with asyncio.timeout(ENDS_WITHIN):
                await lane.quiet()

    await asyncio.gather(*map(work, lanes))
    # The SDKs leave the sockets of connections that broke to the collector.
    gc.collect()
    return [outcomes[number] for number in sorted(outcomes)]


async def survived(lanes: list[Bench], jobs: Sequence[Job]) -> None:
    """Does all jobs, prints what became of each, and fails unless all went well."""
    outcomes = await on_all(lanes, jobs)
    report = table(outcomes)
    print(f"\n{report}")
    assert [outcome for outcome in outcomes if outcome.problem] == [], report
    assert len(outcomes) == len(jobs)
    assert [problem for lane in lanes for problem in lane.later()] == []


def ways(point: str) -> tuple[Way, ...]:
    return ("bus",) if point in BUS_ONLY else get_args(Way)


def in_turns(points: Iterable[str]) -> list[tuple[str, Way]]:
    """Each point over one way: all of them over both take minutes."""
    return [(point, ways(point)[number % len(ways(point))]) for number, point in enumerate(points)]


def over_both(points: Iterable[str]) -> list[tuple[str, Way]]:
    return [(point, way) for point in points for way in ways(point)]
