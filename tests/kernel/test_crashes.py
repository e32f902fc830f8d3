"""Processes that die, and the leases of those that live."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import StorageUnavailable
from aos.kernel.ports import Change, Lease, RemoteItem
from aos.kernel.types import (
    ConversationKey,
    Operation,
    Usage,
)
from tests.kernel.process import FoundryLink, Process, StoreLink
from tests.kernel.world import KEY, OTHER, World, run

TEXTS = ["hello", "2: go", "1,2: go"]


async def story(world: World, text: str, kill_at: int | None) -> tuple[bool, Operation]:
    """A message and its turn, whose first process dies at its n-th contact with the world."""
    first = world.process
    first.kill_at = kill_at
    key, message = KEY, world.message(text, reply=True)

    async def handler() -> None:
        await first.kernel.accept(key, message, "f", fresh=False)
        await first.kernel.drive(key)

    first.do(handler())
    await asyncio.sleep(50)
    died = not first.alive
    if died:
        world.start()
    else:
        first.kill_at = None
    # Whoever sent the message was not answered, and sends it again.
    second = world.process
    await second.kernel.accept(key, message, "f", fresh=False)
    second.do(second.kernel.drive(key))
    operation = await world.finished(Operation(message.operation_id, *key, "queued", 0.0, 0.0))
    await asyncio.sleep(200)
    second.do(second.kernel.sweep())
    await asyncio.sleep(1)
    return died, operation


@pytest.mark.parametrize("text", TEXTS)
def test_a_process_may_die_anywhere(text: str) -> None:
    """At every contact with the world, before and after: the same answer, each step asked and each tool run once."""
    kill_at = 0
    while True:
        kill_at += 1

        async def scenario(world: World, at: int = kill_at) -> tuple[bool, Operation]:
            died, operation = await story(world, text, at)
            outputs = " ".join(f"<{request_id}>" for request_id in sorted(world.ledger))
            assert operation.reply == f"answer to {text}: {outputs}", at
            assert set(world.foundry.steps.values()) == {1}, at
            assert len(world.foundry.steps) == 1 + text.count(",") + text.count(":"), at
            assert world.bus.replies["op0"], at
            assert all(reply == operation for reply in world.bus.replies["op0"]), at
            assert await world.store.due(world.now + 1e6, 10) == [], at
            assert (await world.store.read(KEY)).state.outbox == (), at
            return died, operation

        died, _ = run(scenario)
        if not died:
            break
    assert kill_at > 15


def test_a_dead_owner_is_waited_for_until_its_lease_ends() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("hello")
        first = world.process
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(0.1)
        first.kill()
        second = world.start()
        await second.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "running"
        await asyncio.sleep(25)
        await second.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "running"
        await asyncio.sleep(10)
        await second.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "completed"
        assert (await world.kernel.operation(operation.operation_id)).usage == Usage(adopted=1)

    run(scenario)


def test_a_living_owner_keeps_its_lease_through_a_long_step() -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 110.0
        await world.accept("hello")
        first, second = world.process, world.start()
        first.do(first.kernel.drive(KEY))
        for _ in range(100):
            await asyncio.sleep(1)
            await second.kernel.drive(KEY)
            assert (await world.store.read(KEY)).lease.owner == first.name
        await asyncio.sleep(20)
        assert (await world.kernel.operation("op0")).status == "completed"
        assert set(world.foundry.steps.values()) == {1}

    run(scenario)


def test_one_slow_write_does_not_hold_up_the_other_leases() -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 100.0
        renew = world.store.renew

        async def slow(key: ConversationKey, etag: str, lease: Lease) -> str:
            if key == OTHER:
                await asyncio.sleep(90)
            return await renew(key, etag, lease)

        world.store.renew = slow  # type: ignore[method-assign]
        for key in (KEY, OTHER):
            await world.accept("hello", key=key)
            world.process.do(world.kernel.drive(key))
        await asyncio.sleep(80)
        assert (await world.store.read(KEY)).lease.until > world.now
        await asyncio.sleep(200)

    run(scenario)


def test_what_an_owner_brings_back_after_its_lease_is_discarded() -> None:
    async def scenario(world: World) -> None:
        first = world.process
        first.stalled = asyncio.Event()
        operation = await world.accept("1: go", reply=True)
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(1)
        snapshot = await world.store.read(KEY)
        assert snapshot.lease.owner == first.name
        renews_no_more(first)
        await asyncio.sleep(40)
        second = world.start()
        await second.kernel.drive(KEY)
        operation = await world.finished(operation)
        assert operation.reply == "answer to 1: go: <op0.1.0>"
        assert (await world.store.read(KEY)).lease.fence > snapshot.lease.fence
        first.stalled.set()
        await asyncio.sleep(100)
        assert await world.kernel.operation("op0") == operation
        assert all(reply == operation for reply in world.bus.replies["op0"])
        # Its step added to the conversation, with calls of its own.
        assert (await world.finished(await world.tell("later"))).reply == "answer to later: "

    run(scenario)


def test_an_owner_leaves_the_conversation_alone_after_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        first, goes_on = world.process, asyncio.Event()
        look = FoundryLink.items_after

        async def items_after(link: FoundryLink, remote_id: str, anchor: str | None) -> list[RemoteItem]:
            if link.process is first:
                await goes_on.wait()
            return await look(link, remote_id, anchor)

        monkeypatch.setattr(FoundryLink, "items_after", items_after)
        world.foundry.faults = ["lost request"]
        operation = await world.accept("3: go")
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(1)
        renews_no_more(first)
        await asyncio.sleep(40)
        world.start()
        await world.kernel.cancel(operation.operation_id, "me")
        assert (await world.finished(operation)).status == "cancelled"
        world.bus.tools_answer = False
        after = await world.tell("1: after")
        assert after.waiting_on == "tool"
        # The call that it sees is one of a turn in work, and no other's to answer.
        goes_on.set()
        await asyncio.sleep(5)
        world.result("op1.1.0")
        assert (await world.finished(after)).reply == "answer to 1: after: <op1.1.0>"
        assert set(world.foundry.steps.values()) == {1}

    run(scenario)


def test_an_owner_sends_nothing_after_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        first, goes_on = world.process, asyncio.Event()
        commit = StoreLink.commit

        async def commits(link: StoreLink, key: ConversationKey, etag: str | None, change: Change) -> str:
            written = await commit(link, key, etag, change)
            if link.process is first and change.state.outbox:
                await goes_on.wait()
            return written

        monkeypatch.setattr(StoreLink, "commit", commits)
        operation = await world.accept("1: go")
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(1)
        renews_no_more(first)
        await asyncio.sleep(40)
        world.bus.down = True
        world.start()
        await world.kernel.cancel(operation.operation_id, "me")
        assert (await world.finished(operation)).status == "cancelled"
        world.bus.down = False
        goes_on.set()
        await asyncio.sleep(5)
        assert world.bus.asked == [], "a call of a turn that has ended"

    run(scenario)


def renews_no_more(process: Process) -> None:
    """It stalls so badly that it does not even renew its leases."""
    store = process.world.store
    renew = store.renew

    async def no_renewal(key: ConversationKey, etag: str, lease: Lease) -> str:
        if lease.owner == process.name:
            raise StorageUnavailable("stalled")
        return await renew(key, etag, lease)

    store.renew = no_renewal  # type: ignore[method-assign]
