"""`kill -9` at every named point of a turn and of a tool call: the same reply, one effect, one id of the reply.

`make faults` prints the tables.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import get_args

import pytest
import pytest_asyncio

from aos.kernel.points import CALL_POINTS, TURN_POINTS
from aos.kernel.rollover import TURNS_BETWEEN
from tests.e2e.faults import ENDS_WITHIN, Bench, Outcome, Sent, Way, bench, since, table

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"), pytest.mark.timeout(600)]

LANES = 3
"""Benches side by side: most of the time goes into waiting for leases and locks."""
BUS_ONLY = {"before-send-reply", "after-send-reply", "before-send-park", "after-send-park"}
"""Nobody is written to, and nothing is parked, for a message that came over HTTP."""
UNKNOWN = {"call-claimed", "before-call", "after-call"}
"""After a death here nobody knows whether the tool ran: the model is told so, and it is not called again."""

ARMED_LATER = {"after-adoption", "after-roll-over"}
"""What leads there has to be done first, or needs more settings."""

Job = Callable[[Bench], Awaitable[Outcome]]


@pytest_asyncio.fixture(scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Bench]]:
    async with AsyncExitStack() as stack:
        folders = [tmp_path_factory.mktemp("bench") for _ in range(LANES)]
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


# --- how each point is reached: the default is a message whose turn calls a writing tool


async def plain(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    sent = lane.books(way=way)
    sending = asyncio.create_task(lane.send(sent))
    await dies(lane, point)
    await sending
    return sent, "completed", 1


async def dies(lane: Bench, point: str) -> None:
    await lane.die(lane.agents, point)
    await lane.agents.restart()


async def adopted(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    """Found only by a second process, when a first one died with the answer."""
    await lane.armed(lane.agents, "after-model-step")
    sent = lane.books(way=way)
    sending = asyncio.create_task(lane.send(sent))
    await lane.die(lane.agents, "after-model-step")
    await lane.agents.restart({"AOS_FAULT_POINT": point})
    await dies(lane, point)
    await sending
    return sent, "completed", 1


async def rolled_over(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    """The third turn of a conversation that is near a limit; the next process rolls it over again."""
    near = {"AOS_CONTEXT_TOKENS": "1000"}
    await lane.armed(lane.agents, point, near)
    sent = lane.books(way=way)
    for _ in range(TURNS_BETWEEN):
        earlier = Sent(way, sent.agent_id, "A long story. " * 500, conversation=sent.key)
        await lane.send(earlier)
        assert (await lane.ended(earlier))["status"] == "completed"
    sending = asyncio.create_task(lane.send(sent))
    await lane.die(lane.agents, point)
    await lane.agents.restart(near)
    await sending
    return sent, "completed", 1


async def approved(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    """The process dies while it shows an approval, or when the decision is stored."""
    sent = lane.books("clerk", way)
    sending = asyncio.create_task(lane.send(sent))
    if point != "decision-stored":
        await dies(lane, point)
    approval_id = (await lane.approval(sent))["approval_id"]
    deciding = asyncio.create_task(lane.insist("POST", f"approvals/{approval_id}", {"decision": "approve"}))
    if point == "decision-stored":
        await dies(lane, point)
    await asyncio.gather(sending, deciding)
    return sent, "completed", 1


async def cancelled(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    sent = lane.books("clerk", way)
    sending = asyncio.create_task(lane.send(sent))
    operation_id = (await lane.approval(sent))["operation_id"]
    cancelling = asyncio.create_task(lane.insist("DELETE", f"operations/{operation_id}"))
    await dies(lane, point)
    await asyncio.gather(sending, cancelling)
    return sent, "cancelled", 0


async def delegated(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    sent = lane.has_booked("cfo", way)
    sending = asyncio.create_task(lane.send(sent))
    await dies(lane, point)
    await sending
    return sent, "completed", 1


async def withdrawn(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    """The asking turn is cancelled while the other agent waits for a person, who is not asked any more."""
    sent = lane.has_booked("clerk", way)
    sending = asyncio.create_task(lane.send(sent))
    child = await lane.insist("GET", f"operations/{(await lane.approval(sent))['operation_id']}")
    cancelling = asyncio.create_task(lane.insist("DELETE", f"operations/{child['parent']['operation_id']}"))
    await dies(lane, point)
    await asyncio.gather(sending, cancelling)
    async with asyncio.timeout(ENDS_WITHIN):
        while child["status"] != "cancelled":
            child = await lane.insist("GET", f"operations/{child['operation_id']}")
            await asyncio.sleep(0.1)
    return sent, "cancelled", 0


async def parked(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    sent = Sent(way, "cfo", "MARK\n@fail content_filter")
    await lane.send(sent)
    await dies(lane, point)
    return sent, "failed", 0


async def put_off(lane: Bench, point: str, way: Way) -> tuple[Sent, str, int]:
    await lane.agents.ready("cfo")
    foundry = lane.world.part("Foundry")
    await foundry.stop()
    sent = lane.books(way=way)
    sending = asyncio.create_task(lane.send(sent))
    await lane.die(lane.agents, point)
    await foundry.start()
    await lane.agents.restart()
    await sending
    return sent, "completed", 1


HOW = {
    "after-adoption": adopted,
    "after-roll-over": rolled_over,
    "before-send-approval": approved,
    "after-send-approval": approved,
    "decision-stored": approved,
    "cancellation-stored": cancelled,
    "before-send-park": parked,
    "after-send-park": parked,
    "before-send-delegate": delegated,
    "after-send-delegate": delegated,
    "before-send-answer": delegated,
    "after-send-answer": delegated,
    "before-send-withdraw": withdrawn,
    "after-send-withdraw": withdrawn,
    "before-wake": put_off,
    "after-wake": put_off,
}


def turn(point: str, way: Way) -> Job:
    async def job(lane: Bench) -> Outcome:
        start, kills = time.monotonic(), 2 if point == "after-adoption" else 1
        try:
            if point not in ARMED_LATER:
                await lane.armed(lane.agents, point)
            sent, status, effects = await HOW.get(point, plain)(lane, point, way)
            async with asyncio.timeout(ENDS_WITHIN):
                operation = await lane.ended(sent)
        except (AssertionError, TimeoutError) as error:
            return Outcome(point, way, kills, since(start), 0, "?", f"{error!r}")
        problem = lane.wrong(sent, operation, status, effects)
        if status == "failed":
            problem = problem or await once_parked(lane, sent)
        return Outcome(point, way, kills, since(start), lane.effects(sent.mark), operation["status"], problem)

    return job


async def once_parked(lane: Bench, sent: Sent) -> str | None:
    """What is wrong with the dead letters of a message that can never succeed: sent twice, they are the same."""
    try:
        async with asyncio.timeout(ENDS_WITHIN):
            letters = await lane.parked(sent)
    except TimeoutError:
        return "not parked"
    (letter, *others) = {*letters}
    if others or letter[:3] != (sent.operation_id, "ContentFilter", 1) or sent.mark not in letter[3]:
        return f"parked as {letters}"
    return None


def ways(point: str) -> tuple[Way, ...]:
    return ("bus",) if point in BUS_ONLY else get_args(Way)


def in_turns(points: Iterable[str]) -> list[tuple[str, Way]]:
    """Each point over one way: all of them over both take minutes."""
    return [(point, ways(point)[number % len(ways(point))]) for number, point in enumerate(points)]


def over_both(points: Iterable[str]) -> list[tuple[str, Way]]:
    return [(point, way) for point in points for way in ways(point)]


async def test_the_host_may_die_at_every_point_of_a_turn(lanes: list[Bench]) -> None:
    await survived(lanes, [turn(point, way) for point, way in in_turns(TURN_POINTS)])


@pytest.mark.soak
async def test_every_point_of_a_turn_over_both_ways(lanes: list[Bench]) -> None:
    await survived(lanes, [turn(point, way) for point, way in over_both(TURN_POINTS)])


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
    """Azurite writes its tables down every 5 s: it is killed when it has, while turns wait for their tools."""

    async def job(lane: Bench) -> Outcome:
        start = time.monotonic()
        await lane.servers.kill()
        batch = [lane.books(way=way) for way in get_args(Way) for _ in range(3)]
        await asyncio.gather(*map(lane.send, batch))
        await asyncio.sleep(8.0)
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
