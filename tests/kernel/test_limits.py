"""Limits and deadlines of turns and tools."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from aos.kernel.kernel import KernelOptions
from aos.kernel.types import (
    Limits,
    Usage,
)
from tests.kernel.world import KEY, World, code, run


@pytest.mark.parametrize("text", ["1,1,1: too many steps", "6: too many calls"])
def test_a_turn_past_its_limits_ends_and_the_next_one_works(text: str) -> None:
    async def scenario(world: World) -> None:
        operation = await world.finished(await world.tell(text))
        assert code(operation) == "limit_exceeded"
        assert (await world.finished(await world.tell("hello"))).reply == "answer to hello: "
        assert not world.foundry.remotes["conv_1"].unanswered

    run(scenario, KernelOptions(limits=Limits(model_steps=3, tool_calls=5)))


def test_a_tool_that_never_answers_is_given_up() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        begin = world.now
        operation = await world.finished(await world.tell("2: go"))
        assert operation.status == "completed"
        assert [call.status for call in operation.tool_calls] == ["timed_out", "timed_out"]
        assert operation.reply is not None
        assert operation.reply.count("timeout") == 2
        assert world.agents.time_limit <= world.now - begin <= world.agents.time_limit + 90

    run(scenario)


def test_a_turn_past_its_deadline_ends_and_the_next_one_works() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        world.agents.time_limit = 10_000.0
        first = await world.tell("2: go", reply=True)
        second = await world.tell("hello")
        first = await world.finished(first)
        assert code(first) == "deadline_exceeded"
        assert 600 <= first.updated_at - first.created_at <= 690
        assert world.bus.replies["op0"] == [first]
        third = await world.finished(await world.tell("again"))
        assert third.reply == "answer to again: "
        assert code(await world.finished(second)) == "deadline_exceeded"
        assert not world.foundry.remotes["conv_1"].unanswered

    run(scenario)


def test_time_in_the_queue_counts_and_a_late_message_is_not_asked() -> None:
    async def scenario(world: World) -> None:
        await world.accept("too late")
        await asyncio.sleep(601)
        await world.kernel.drive(KEY)
        assert code(await world.kernel.operation("op0")) == "deadline_exceeded"
        assert world.foundry.requests == 0

    run(scenario)


def test_a_refused_step_ends_the_turn_and_the_next_one_works() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: go")
        world.foundry.faults = ["refuse"]
        operation = await world.finished(operation)
        assert (code(operation), operation.status) == ("content_filter", "failed")
        assert (await world.tell("hello")).reply == "answer to hello: "
        assert not world.foundry.remotes["conv_1"].unanswered

    run(scenario)


@pytest.mark.parametrize("text", ["2: go", "hello"])
def test_a_step_that_ends_after_the_deadline_does_not_spoil_the_conversation(text: str) -> None:
    """The model made calls that no turn knows; Foundry refuses every turn until they are answered."""

    async def scenario(world: World) -> None:
        world.foundry.faults = ["late answer"]
        operation = await world.tell(text)
        assert code(await world.finished(operation)) == "deadline_exceeded"
        await asyncio.sleep(world.foundry.late)
        again = await world.finished(await world.tell(text.replace("2: go", "go")))
        assert again.reply == f"answer to {text.replace('2: go', 'go')}: "
        assert again.usage == Usage(1, 1, 2)

    run(scenario, KernelOptions(turn=100.0))


@pytest.mark.parametrize("state", ["disabled", "stopped"])
def test_a_turn_ends_though_its_agent_is_switched_off(state: Literal["disabled", "stopped"]) -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("2: go")
        drive = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(world.foundry.latency / 2)
        world.agents.state = state
        await drive
        assert (await world.finished(operation)).status == "completed"

    run(scenario)


def test_messages_of_a_stopped_agent_wait_and_have_their_time_when_it_starts() -> None:
    async def scenario(world: World) -> None:
        world.agents.state = "stopped"
        operation = await world.tell("hello", reply=True)
        writes = (await world.store.read(KEY)).etag
        for _ in range(120):
            await asyncio.sleep(30)
            await world.kernel.sweep()
        assert (await world.kernel.operation(operation.operation_id)).status == "queued"
        assert (await world.store.read(KEY)).etag == writes, "waiting writes nothing"
        assert world.bus.wakes == []
        world.agents.state, world.agents.running_since = "ready", world.now
        await world.kernel.wake_agent("cfo")
        assert world.bus.wakes == []
        await world.kernel.wake_agent(KEY.agent_id)
        assert len(world.bus.wakes) == 1
        await asyncio.sleep(2)
        done = await world.kernel.operation(operation.operation_id)
        assert (done.status, done.reply) == ("completed", "answer to hello: ")

    run(scenario)


def test_an_agent_that_is_removed_in_the_middle_of_a_step() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("2: go")
        drive = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(world.foundry.latency / 2)
        world.agents.state = "unknown"
        await drive
        assert code(await world.kernel.operation(operation.operation_id)) == "unknown_agent"
        world.agents.state = "ready"
        assert (await world.tell("hello")).reply == "answer to hello: "

    run(scenario)
