"""`kill -9` of the host at every named point of a turn: the same reply, one effect, one id of the reply.

`make faults` prints the table, over the bus and over HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from aos.kernel.points import TURN_POINTS
from aos.kernel.rollover import TURNS_BETWEEN
from tests.e2e.faults import ENDS_WITHIN, Bench, Outcome, Sent, Way, since
from tests.e2e.lanes import Job, benches, in_turns, over_both, survived

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"), pytest.mark.timeout(600)]

LANES = 3
"""Benches side by side: most of the time goes into waiting for leases and locks."""
ARMED_LATER = {"after-adoption", "after-roll-over"}
"""What leads there has to be done first, or needs more settings."""


@pytest_asyncio.fixture(scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Bench]]:
    async with benches(tmp_path_factory, LANES) as made:
        yield made


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
        async with asyncio.timeout(ENDS_WITHIN):
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


EVERYDAY = (
    *("accepted", "lease-taken", "after-model-step", "before-send-tool", "after-send-tool", "result-stored"),
    *("before-send-reply", "decision-stored", "before-send-answer", "after-adoption"),
)
"""One of each kind; `make faults` goes through all of them, over both ways."""


async def test_the_host_may_die_at_points_of_each_kind(lanes: list[Bench]) -> None:
    assert set(EVERYDAY) <= set(TURN_POINTS)
    await survived(lanes, [turn(point, way) for point, way in in_turns(EVERYDAY)])


@pytest.mark.soak
async def test_every_point_of_a_turn_over_both_ways(lanes: list[Bench]) -> None:
    await survived(lanes, [turn(point, way) for point, way in over_both(TURN_POINTS)])
