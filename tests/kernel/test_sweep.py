"""The sweep, and closing."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import ConversationUnreadable, UnknownOperation
from aos.kernel.ports import Snapshot
from aos.kernel.records import replace
from aos.kernel.types import (
    ConversationKey,
    Usage,
)
from tests.kernel.world import KEY, OTHER, World, run


def test_the_sweep_resumes_what_nobody_drives() -> None:
    async def scenario(world: World) -> None:
        for number in range(5):
            await world.accept("1: go", key=ConversationKey("ceo", f"c{number}"))
        assert await world.kernel.sweep() == 0
        await asyncio.sleep(61)
        assert await world.kernel.sweep(limit=3) == 3
        await asyncio.sleep(10)
        done = [(await world.kernel.operation(f"op{number}")).status for number in range(5)]
        assert sorted(done) == ["completed"] * 3 + ["queued"] * 2
        assert await world.kernel.sweep() == 2
        await asyncio.sleep(10)
        assert await world.kernel.sweep() == 0
        assert await world.store.due(world.now + 1e6, 10) == []

    run(scenario)


@pytest.mark.parametrize("error", [UnknownOperation("What lies there cannot be read."), LookupError("A bug.")])
def test_an_entry_that_always_fails_does_not_keep_the_sweep_from_the_others(error: Exception) -> None:
    async def scenario(world: World) -> None:
        await world.accept("hello")
        await world.accept("hello", key=OTHER)
        await asyncio.sleep(61)
        read = world.store.read

        async def broken(key: ConversationKey) -> object:
            if key == KEY:
                raise error
            return await read(key)

        world.store.read = broken  # type: ignore[assignment]
        assert await world.kernel.sweep(limit=1) == 1
        assert await world.kernel.sweep(limit=1) == 1
        assert (await world.kernel.operation("op1")).status == "completed"

    run(scenario)


def test_those_who_wait_for_somebody_do_not_keep_a_dead_process_from_being_followed() -> None:
    async def scenario(world: World) -> None:
        world.agents.states["cfo"] = "stopped"
        for number in range(1_000):
            key = ConversationKey("cfo", str(number))
            message = replace(world.message("hello"), operation_id=f"waits{number}")
            await world.kernel.accept(key, message, "f", fresh=True)
        operation = await world.accept("hello")
        world.foundry.latency = 3.0
        world.process.do(world.kernel.drive(KEY))
        await asyncio.sleep(2.0)
        began = world.now
        world.process.kill()
        world.start()
        while not (await world.kernel.operation(operation.operation_id)).final:
            await asyncio.sleep(10.0)
            await world.kernel.sweep(patience=5.0)
            assert world.now - began <= 45.0

    run(scenario)


def test_an_operation_whose_conversation_stays_unreadable_ends_and_the_others_go_on() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("hello")
        other = await world.accept("hello", key=OTHER)
        read = world.store.read

        async def broken(key: ConversationKey) -> Snapshot:
            if key == KEY:
                raise ConversationUnreadable("Row 'state' cannot be read.")
            return await read(key)

        world.store.read = broken  # type: ignore[method-assign]
        begin = world.now
        while not (await world.kernel.operation(operation.operation_id)).final:
            assert world.now - begin < 800
            await asyncio.sleep(10)
            await world.kernel.sweep()
        assert world.now - begin > 600, "another version of the program might have read it"
        ended = await world.kernel.operation(operation.operation_id)
        assert ended.error is not None
        assert (ended.status, ended.error.code) == ("failed", "conversation_unreadable")
        assert (await world.kernel.operation(other.operation_id)).status == "completed"
        await asyncio.sleep(120)
        await world.kernel.sweep()
        assert await world.store.due(1e12, 10) == []

    run(scenario)


def test_a_due_entry_waits_for_an_acceptance_on_its_way() -> None:
    async def scenario(world: World) -> None:
        await world.accept("hello")
        operations = world.store._operations
        operation = operations.pop("op0")
        await asyncio.sleep(90)
        assert await world.kernel.sweep() == 1
        operations["op0"] = operation
        assert await world.kernel.sweep() == 1
        assert (await world.kernel.operation("op0")).status == "completed"

    run(scenario)


def test_entries_whose_acceptance_never_ended_hold_up_no_other() -> None:
    async def scenario(world: World) -> None:
        for number in range(5):
            await world.accept("hello", key=ConversationKey("ceo", f"c{number}"))
            del world.store._operations[f"op{number}"]
        operation = await world.accept("hello")
        await asyncio.sleep(90)
        assert await world.kernel.sweep(limit=2, patience=5.0) == 6
        assert (await world.kernel.operation(operation.operation_id)).status == "completed"

    run(scenario)


def test_closing_lets_running_turns_end() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("hello")
        world.kernel.start(operation)
        await asyncio.sleep(0.1)
        await world.kernel.close(grace=5)
        assert (await world.kernel.operation("op0")).status == "completed"

    run(scenario)


def test_closing_leaves_what_takes_too_long_to_the_next_owner() -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 20.0
        operation = await world.accept("hello")
        world.kernel.start(operation)
        await asyncio.sleep(0.1)
        begin = world.now
        await world.kernel.close(grace=5)
        assert world.now - begin == pytest.approx(5, abs=0.01)
        world.process.kill()
        world.start()
        assert (await world.finished(operation)).usage == Usage(adopted=1)

    run(scenario)
