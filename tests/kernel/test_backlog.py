"""How many operations of an agent may be unfinished, over all of its conversations and processes."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import BacklogFull
from aos.kernel.backlog import RECOUNT
from aos.kernel.kernel import KernelOptions
from aos.kernel.types import ConversationKey, Message, Operation
from tests.kernel.world import World, run

FEW = KernelOptions(agent_backlog=5)


def conversation(number: int, agent: str = "ceo") -> ConversationKey:
    return ConversationKey(agent, f"c{number}")


async def counted(world: World) -> None:
    """The newest process counts, while nothing else happens."""
    assert world.kernel._backlog.full("nobody") is None
    await world.settle()


async def five_wait(world: World) -> list[Operation]:
    """As many as may, each in a conversation of its own; the agent is stopped."""
    await counted(world)
    world.agents.state = "stopped"
    return [await world.accept(f"message {number}", key=conversation(number)) for number in range(5)]


def test_beyond_the_bound_a_new_message_is_refused_and_a_known_one_answered() -> None:
    async def scenario(world: World) -> None:
        waiting = await five_wait(world)
        with pytest.raises(BacklogFull, match="agent ceo") as full:
            await world.accept("one too many", key=conversation(9))
        assert (full.value.code, full.value.retry_after) == ("agent_backlog_full", RECOUNT)
        assert await world.store.operation("op5") is None
        key, message = world.accepted[0]
        assert await world.kernel.accept(key, message, message.text, fresh=False) == (waiting[0], False)
        other = await world.accept("to somebody else", key=conversation(0, "cfo"))
        assert other.status == "queued"
        world.agents.state = "ready"
        for number in range(5):
            await world.kernel.drive(conversation(number))
        assert (await world.tell("now there is room", key=conversation(9))).status == "completed"
        await world.kernel.drive(conversation(0, "cfo"))

    run(scenario, FEW)


def test_the_bound_counts_what_other_processes_accepted() -> None:
    async def scenario(world: World) -> None:
        await five_wait(world)
        world.start()
        await counted(world)
        with pytest.raises(BacklogFull, match="About 5 operations"):
            await world.accept("one too many", key=conversation(10))
        world.start()
        first = Message("op_other", "of a process that just started", world.now, world.now + 600.0)
        await world.kernel.accept(conversation(9), first, "f", fresh=False)
        world.agents.state = "ready"
        for key in [*map(conversation, range(5)), conversation(9)]:
            await world.processes[0].kernel.drive(key)
        await asyncio.sleep(RECOUNT)
        await counted(world)
        assert (await world.tell("now there is room", key=conversation(10))).status == "completed"

    run(scenario, FEW)


def test_what_ended_and_is_saved_again_is_taken_off_once() -> None:
    async def scenario(world: World) -> None:
        await counted(world)
        for number in range(1, 4):
            await world.tell(f"with a reply {number}", key=conversation(number), reply=True)
        world.agents.state = "stopped"
        for number in range(4, 9):
            await world.accept(f"waits {number}", key=conversation(number))
        with pytest.raises(BacklogFull, match="About 5 operations"):
            await world.accept("one too many", key=conversation(10))
        world.agents.state = "ready"
        for number in range(9):
            await world.kernel.drive(conversation(number))

    run(scenario, FEW)


def test_accepting_a_message_asks_storage_for_nothing_more() -> None:
    async def scenario(world: World) -> None:
        await world.accept("the first", key=conversation(0))
        await world.settle()
        before = world.process.points
        await world.accept("the second", key=conversation(0))
        await world.settle()
        assert world.process.points - before == 2, "before and after the one write"
        await world.kernel.drive(conversation(0))

    run(scenario, FEW)


def test_a_count_that_fails_refuses_nobody() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("hello", key=conversation(0))
        world.storage_down = True
        await world.settle()
        world.storage_down = False
        await world.kernel.drive(conversation(0))
        assert (await world.kernel.operation(accepted.operation_id)).status == "completed"

    run(scenario, FEW)


def test_a_process_that_only_drives_does_not_remember_every_turn() -> None:
    async def scenario(world: World) -> None:
        for number in range(40):
            await world.accept(f"message {number}", key=conversation(number))
        driving = world.start()
        for number in range(40):
            await asyncio.sleep(1)
            await driving.kernel.drive(conversation(number))
        assert len(driving.kernel._backlog._ended) <= RECOUNT + 1

    run(scenario)
