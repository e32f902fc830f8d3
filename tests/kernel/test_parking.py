"""Parked messages and further attempts."""

from __future__ import annotations

import asyncio
import json

import pytest

from aos.errors import BusUnavailable
from aos.kernel.ports import Acceptance
from aos.kernel.types import (
    Message,
    Operation,
    Origin,
    ReplyAddress,
)
from aos.messaging.replies import agent_reply
from aos.views import operation_view
from tests.kernel.world import KEY, World, run

ORIGIN = Origin("agent-events", "m1", '{"agent_id": "ceo"}')


async def say(world: World, text: str, attempt: int) -> Operation:
    message = Message("op_x", text, world.now, world.now + 600, attempt, reply_to=ReplyAddress("a"), origin=ORIGIN)
    await world.kernel.accept(KEY, message, "print", fresh=False)
    world.accepted.append((KEY, message))
    await world.kernel.drive(KEY)
    return await world.kernel.operation("op_x")


def test_the_message_of_a_failed_turn_is_parked_and_its_next_attempt_begins_anew() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        world.foundry.faults = ["refuse"]
        first = await say(world, "1: go", 1)
        assert (first.status, first.parked, first.attempt) == ("failed", True, 1)
        assert [(park.operation, park.origin) for park in world.bus.parked] == [(first, ORIGIN)]
        second = await say(world, "1: go", 2)
        assert (second.status, second.parked, second.attempt) == ("waiting", False, 2)
        assert list(world.ledger) == ["op_x.2-1.0"], "the tool ledger remembers the calls of the first attempt"
        assert await say(world, "1: go", 2) == second, "again is the same attempt"
        await world.kernel.add_result("op_x", world.ledger["op_x.2-1.0"][1])
        done = await world.kernel.operation("op_x")
        assert (done.status, done.attempt) == ("completed", 2)
        assert await say(world, "1: go", 3) == done, "what succeeded is not done again"
        assert len(world.bus.parked) == 1
        assert [reply.attempt for reply in world.bus.replies["op_x"]] == [1, 2]

    run(scenario)


def test_a_parked_message_leaves_also_when_the_bus_was_away() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults = ["refuse"]
        world.bus.down = True
        with pytest.raises(BusUnavailable):
            await say(world, "go", 1)
        assert (await world.kernel.operation("op_x")).parked
        world.bus.down = False
        for _ in range(4):
            await asyncio.sleep(60)
            await world.kernel.sweep()
        assert len(world.bus.parked) == 1
        assert await world.store.due(1e12, 10) == []

    run(scenario)


def test_an_attempt_that_waits_is_not_taken_for_the_one_before_it() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults = ["refuse"]
        world.bus.down = True
        with pytest.raises(BusUnavailable):
            await say(world, "go", 1)
        world.bus.down = False
        world.agents.state = "stopped"
        assert (await say(world, "go", 2)).attempt == 2
        assert len(world.bus.parked) == 1
        assert (await world.kernel.operation("op_x")).status == "queued"
        await asyncio.sleep(40)
        await world.kernel.sweep()
        assert [entry.operation_id for entry in await world.store.due(world.now + 1e6, 10)] == ["op_x"]
        world.agents.state = "ready"
        await world.kernel.wake_agent("ceo")
        assert (await world.finished(await world.kernel.operation("op_x"))).status == "completed"

    run(scenario)


def test_an_attempt_that_is_accepted_while_the_parked_message_leaves_is_not_undone() -> None:
    async def scenario(world: World) -> None:
        async def replay() -> None:
            while not world.bus.parked:  # noqa: ASYNC110 - in the very moment between sending and saving
                await asyncio.sleep(0)
            world.agents.state = "stopped"
            message = Message("op_x", "go", world.now, world.now + 600, 2, origin=ORIGIN)
            await world.store.accept(Acceptance(KEY, message, "print"))

        world.foundry.faults = ["refuse"]
        replaying = asyncio.create_task(replay())
        assert (await say(world, "go", 1)).attempt == 2
        await replaying
        found = await world.kernel.operation("op_x")
        assert (found.status, found.attempt) == ("queued", 2)
        assert await world.store.due(world.now + 1e6, 10) != []

    run(scenario)


def test_an_answer_that_was_cut_is_completed_but_says_so() -> None:
    async def scenario(world: World) -> None:
        whole = await world.tell("hello", reply=True)
        world.foundry.truncated = True
        cut = await world.tell("tell me everything", reply=True)
        assert [(operation.status, operation.truncated) for operation in (whole, cut)] == [
            ("completed", False),
            ("completed", True),
        ]
        assert "truncated" not in operation_view(whole)
        assert operation_view(cut)["truncated"] is True
        assert operation_view(cut)["reply"] == cut.reply
        for operation in (whole, cut):
            body = json.loads(agent_reply(operation, ReplyAddress("answers")).body)
            assert body.get("truncated") == (True if operation.truncated else None)

    run(scenario)
