"""Waiting for an operation."""

from __future__ import annotations

import asyncio

import pytest

from tests.kernel.world import KEY, World, run


def test_waiting_ends_with_the_turn_of_this_process() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("1: go")
        world.kernel.start(operation)
        begin = world.now
        operation = await world.kernel.wait(operation, 60)
        assert operation.status == "completed"
        assert world.now - begin == pytest.approx(2 * world.foundry.latency + world.bus.latency, abs=0.01)
        assert await world.kernel.wait(operation, 60) == operation

    run(scenario)


def test_waiting_ends_with_the_turn_of_another_process() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("1: go")
        first, second = world.process, world.start()
        first.do(first.kernel.drive(KEY))
        begin = world.now
        operation = await second.kernel.wait(operation, 60)
        assert operation.status == "completed"
        assert world.now - begin <= 2 * world.foundry.latency + world.bus.latency + 1.0

    run(scenario)


def test_waiting_ends_in_time() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        operation = await world.accept("1: go")
        assert await world.kernel.wait(operation, 0) == operation
        world.kernel.start(operation)
        begin = world.now
        operation = await world.kernel.wait(operation, 20)
        assert operation.status == "waiting"
        assert world.now - begin == pytest.approx(20, abs=0.01)

    run(scenario)


def test_several_may_wait_for_one_operation() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("hello")
        world.kernel.start(operation)
        waits = [asyncio.create_task(world.kernel.wait(operation, 60)) for _ in range(3)]
        waits[0].cancel()
        ends = await asyncio.gather(*waits[1:])
        assert [end.status for end in ends] == ["completed", "completed"]

    run(scenario)
