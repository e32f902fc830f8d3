"""Histories and their deletion, in a world whose time jumps."""

from __future__ import annotations

import asyncio

import pytest

from aos.conversations import PAGE, Conversations
from aos.errors import ConversationBusy, FoundryUnavailable, UnknownConversation
from aos.kernel.options import KernelOptions
from aos.kernel.ports import ConversationStore
from aos.kernel.types import Cancellation, ConversationKey
from tests.kernel.process import FoundryLink, Process, StoreLink
from tests.kernel.world import KEY, World, run


def desk(world: World, process: Process | None = None) -> Conversations:
    process = process or world.process
    store: ConversationStore = StoreLink(process, world.store)
    return Conversations(process.kernel, store, FoundryLink(process, world.foundry), world.clock)


def test_the_history_shows_messages_replies_and_calls() -> None:
    async def scenario(world: World) -> None:
        first = await world.tell("1: look it up", reply=True)
        await world.finished(first)
        second = await world.accept("hello")
        page = await desk(world).page(KEY)
        assert (page.agent_id, page.conversation_id, page.turns, page.next) == ("ceo", "main", 1, None)
        answered, waiting = page.items
        assert (answered.message, answered.status, answered.operation_id) == (
            "1: look it up",
            "completed",
            first.operation_id,
        )
        assert answered.reply is not None
        assert answered.reply.startswith("answer to 1: look it up")
        assert [(call.tool, call.status) for call in answered.tool_calls] == [("read", "succeeded")]
        assert answered.usage is not None
        assert answered.usage.total_tokens == 4
        assert (waiting.message, waiting.status, waiting.reply) == ("hello", "queued", None)
        await world.kernel.drive(KEY)
        await world.finished(second)

    run(scenario)


def test_a_long_history_comes_page_by_page() -> None:
    async def scenario(world: World) -> None:
        for number in range(PAGE + 1):
            await world.tell(f"message {number}")
        first = await desk(world).page(KEY)
        assert first.next is not None
        second = await desk(world).page(KEY, int(first.next))
        said = [item.message for item in (*first.items, *second.items)]
        assert said == [f"message {number}" for number in range(PAGE + 1)]
        assert second.next is None

    run(scenario)


def test_a_conversation_that_is_not_there() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(UnknownConversation, match="nowhere"):
            await desk(world).page(ConversationKey("ceo", "nowhere"))
        await desk(world).delete(ConversationKey("ceo", "nowhere"))

    run(scenario)


def test_a_conversation_is_forgotten_here_and_in_foundry_and_begins_anew() -> None:
    async def scenario(world: World) -> None:
        told = await world.tell("a secret")
        for _ in range(2):
            await desk(world).delete(KEY)
        assert world.foundry.remotes == {}
        with pytest.raises(UnknownConversation):
            await desk(world).page(KEY)
        left = await world.kernel.operation(told.operation_id)
        assert (left.status, left.reply) == ("completed", None)
        await world.tell("hello again")
        assert world.foundry.opened == 2
        assert [item.message for item in (await desk(world).page(KEY)).items] == ["hello again"]

    run(scenario)


def test_a_turn_that_runs_or_waits_is_not_deleted() -> None:
    async def scenario(world: World) -> None:
        queued = await world.accept("hello")
        with pytest.raises(ConversationBusy):
            await desk(world).delete(KEY)
        driving = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(0.2)
        with pytest.raises(ConversationBusy):
            await desk(world).delete(KEY)
        await driving
        await world.finished(queued)
        world.bus.tools_answer = False
        waiting = await world.tell("1: call")
        assert waiting.status == "waiting"
        with pytest.raises(ConversationBusy, match="DELETE /api/operations"):
            await desk(world).delete(KEY)
        await world.store.add_arrival(KEY, Cancellation(waiting.operation_id, "ada"))
        await world.kernel.drive(KEY)
        await desk(world).delete(KEY)
        assert world.foundry.remotes == {}

    run(scenario)


def test_what_comes_while_it_is_forgotten_is_answered_in_a_new_conversation() -> None:
    async def scenario(world: World) -> None:
        await world.tell("old")
        other = world.start()
        deleting = asyncio.create_task(desk(world, other).delete(KEY))
        await asyncio.sleep(0)
        fresh = await world.accept("new")
        await world.kernel.drive(KEY)
        await deleting
        done = await world.finished(fresh)
        assert done.reply is not None
        assert done.reply.startswith("answer to new")
        assert [item.message for item in (await desk(world).page(KEY)).items][-1] == "new"

    run(scenario)


def test_foundry_down_leaves_everything_and_the_next_message_does_not_wait() -> None:
    async def scenario(world: World) -> None:
        await world.tell("old")
        world.foundry.down = True
        with pytest.raises(FoundryUnavailable):
            await desk(world).delete(KEY)
        world.foundry.down = False
        assert (await world.tell("new")).status == "completed"
        assert len((await desk(world).page(KEY)).items) == 2

    run(scenario)


def test_a_process_may_die_anywhere_in_a_deletion() -> None:
    async def scenario(world: World) -> None:
        for kill_at in range(1, 14):
            key = ConversationKey("ceo", f"c{kill_at}")
            await world.tell("old", key=key)
            victim = world.start()
            victim.kill_at = kill_at
            victim.do(desk(world, victim).delete(key))
            await world.settle()
            await asyncio.sleep(200.0)
            survivor = world.start()
            assert (await world.tell("new", key=key)).status == "completed"
            await desk(world, survivor).delete(key)
            with pytest.raises(UnknownConversation):
                await desk(world, survivor).page(key)

    run(scenario)


def test_the_history_shows_where_a_conversation_was_rolled_over_and_forgetting_takes_all_of_it() -> None:
    async def scenario(world: World) -> None:
        world.foundry.counted = True
        for number in range(40):
            await world.tell(f"message {number} " + "x" * 400)
        page = await desk(world).page(KEY)
        assert page.rolled_over == len(page.rollovers) > 0
        mark = page.rollovers[0]
        assert (mark.carried, 0 < mark.turns < 40) == ("summary", True)
        assert page.items[0].accepted_at < mark.at
        assert len(world.foundry.remotes) > 1
        await desk(world).delete(KEY)
        assert world.foundry.remotes == {}

    run(scenario, KernelOptions(context_tokens=2000))


def test_forgetting_takes_also_what_was_rolled_over_long_ago() -> None:
    async def scenario(world: World) -> None:
        world.foundry.counted = True
        for number in range(60):
            await world.tell(f"message {number} " + "x" * 1000)
        page = await desk(world).page(KEY)
        assert len(world.foundry.remotes) == page.rolled_over + 1 > len(page.rollovers) + 1
        await desk(world).delete(KEY)
        assert world.foundry.remotes == {}

    run(scenario, KernelOptions(context_tokens=400))
