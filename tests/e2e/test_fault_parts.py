"""`kill -9` of the MCP side at every named point of a call, and of each part of the stack: nothing lost, one effect.

`make faults` prints the tables, over the bus and over HTTP, and with more moments.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import get_args

import pytest
import pytest_asyncio

from aos.kernel.points import CALL_POINTS
from tests.e2e.faults import ENDS_WITHIN, Bench, Outcome, Sent, Way, since
from tests.e2e.lanes import Job, benches, in_turns, over_both, survived

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"), pytest.mark.timeout(600)]

LANES = 2
UNKNOWN = {"call-claimed", "before-call", "after-call"}
"""After a death here nobody knows whether the tool ran: the model is told so, and it is not called again."""


@pytest_asyncio.fixture(scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Bench]]:
    async with benches(tmp_path_factory, LANES) as made:
        yield made


def call(point: str, way: Way) -> Job:
    async def job(lane: Bench) -> Outcome:
        start = time.monotonic()
        sent = lane.books(way=way)
        try:
            await lane.armed(lane.servers, point)
            await lane.send(sent)
            await lane.die(lane.servers, point)
            await lane.servers.restart()
            async with asyncio.timeout(ENDS_WITHIN):
                operation = await lane.ended(sent)
        except (AssertionError, TimeoutError) as error:
            return Outcome(point, way, 1, since(start), 0, "?", f"{error!r}")
        effects = 0 if point in ("call-claimed", "before-call") else 1
        (made,) = operation["tool_calls"]
        told = "outcome unknown" if made["status"] == "failed" else made["status"]
        problem = lane.wrong(sent, operation, "completed", effects)
        if (made["status"] == "failed") != (point in UNKNOWN):
            problem = problem or f"the call ended as {made}"
        (output,) = await lane.told(sent)
        if output.startswith('{"error": "outcome_unknown: ') != (point in UNKNOWN):
            problem = problem or f"the model was told {output}"
        return Outcome(point, way, 1, since(start), lane.effects(sent.mark), told, problem)

    return job


async def test_the_mcp_side_may_die_at_every_point_of_a_call(lanes: list[Bench]) -> None:
    await survived(lanes, [call(point, way) for point, way in in_turns(CALL_POINTS)])


@pytest.mark.soak
async def test_every_point_of_a_call_over_both_ways(lanes: list[Bench]) -> None:
    await survived(lanes, [call(point, way) for point, way in over_both(CALL_POINTS)])


def part_dies(name: str, moment: str, after: float) -> Job:
    """A part of the stack is killed among turns that were just sent."""

    async def job(lane: Bench) -> Outcome:
        start = time.monotonic()
        batch = [lane.books(way=way) for way in get_args(Way) for _ in range(3)]
        sending = [asyncio.create_task(lane.send(sent)) for sent in batch]
        await asyncio.sleep(after)
        await lane.kill_part(name)
        await asyncio.gather(*sending)
        return await all_ended(lane, batch, name, moment, start)

    return job


def storage_dies(name: str, moment: str) -> Job:
    """Azurite writes its tables down every 5 s: it is killed when it has, and turns wait for their tools."""

    async def job(lane: Bench) -> Outcome:
        start = time.monotonic()
        await lane.servers.kill()
        batch = [lane.books(way=way) for way in get_args(Way) for _ in range(3)]
        await asyncio.gather(*map(lane.send, batch))
        async with asyncio.timeout(ENDS_WITHIN):
            await lane.kept(batch)
        await lane.kill_part(name)
        await lane.servers.restart()
        return await all_ended(lane, batch, name, moment, start)

    return job


async def all_ended(lane: Bench, batch: list[Sent], name: str, moment: str, start: float) -> Outcome:
    effects, problem = 0, None
    try:
        async with asyncio.timeout(ENDS_WITHIN):
            for sent in batch:
                operation = await lane.ended(sent)
                effects += lane.effects(sent.mark)
                problem = problem or lane.wrong(sent, operation, "completed", 1)
    except TimeoutError:
        problem = f"{sent} did not end"
    return Outcome(name, moment, 1, since(start), effects, "completed" if problem is None else "?", problem)


def deaths(moments: Iterable[float]) -> list[Job]:
    """Of each part of the stack."""
    jobs = [
        part_dies(name, f"6 turns, {after} s old", after) for name in ("Service Bus", "Foundry") for after in moments
    ]
    return [*jobs, storage_dies("Azurite", "6 turns that wait for tools")]


async def test_each_part_of_the_stack_may_die_during_turns(lanes: list[Bench]) -> None:
    await survived(lanes, deaths([0.5]))


@pytest.mark.soak
async def test_each_part_of_the_stack_may_die_at_several_moments(lanes: list[Bench]) -> None:
    await survived(lanes, deaths([0.1, 0.5, 1.5]))
