"""Ending an operation before its time, wherever it is worked on."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import OperationFinal, UnknownOperation
from aos.kernel.types import Cancellation, Limits
from tests.kernel.world import KEY, World, run


def test_a_queued_message_is_left_out_and_the_others_keep_their_order() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        await world.tell("1: first")
        second, third = await world.accept("second", reply=True), await world.accept("third")
        cancelled = await world.kernel.cancel(second.operation_id, "an operator")
        assert cancelled.status == "cancelled"
        assert cancelled.error is not None
        assert cancelled.error.detail == "Cancelled by an operator."
        assert [reply.status for reply in world.bus.replies["op1"]] == ["cancelled"]
        assert (await world.kernel.operation("op0")).status == "waiting"
        await world.kernel.add_result("op0", world.ledger["op0.1.0"][1])
        assert (await world.finished(third)).status == "completed"
        texts = [item.text for item in world.foundry.remotes["conv_1"].items if item.kind == "user"]
        assert texts == ["1: first", "third"]

    run(scenario)


def test_a_turn_that_waits_for_a_tool_ends_and_a_late_result_is_ignored() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        await world.tell("2: go", reply=True)
        await world.kernel.add_result("op0", world.ledger["op0.1.0"][1])
        cancelled = await world.kernel.cancel("op0", "me")
        assert cancelled.status == "cancelled"
        assert [call.status for call in cancelled.tool_calls] == ["succeeded", "abandoned"]
        await world.kernel.add_result("op0", world.ledger["op0.1.1"][1])
        assert await world.kernel.operation("op0") == cancelled
        # The calls that Foundry still waits for are answered by the next turn.
        assert (await world.finished(await world.tell("next"))).status == "completed"
        assert not world.foundry.remotes["conv_1"].unanswered

    run(scenario)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("text", ["hello", "2: go"])
def test_a_model_step_is_let_end_and_its_answer_is_dropped(text: str, elsewhere: bool) -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 20.0
        await world.accept(text)
        drive = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(1.0)
        canceller = world.start().kernel if elsewhere else world.kernel
        taken = await canceller.cancel("op0", "me")
        assert taken.status == "running"
        await drive
        cancelled = await world.kernel.operation("op0")
        assert (cancelled.status, cancelled.reply) == ("cancelled", None)
        assert await canceller.cancel("op0", "me") == cancelled
        assert world.bus.asked == []
        assert (await world.finished(await world.tell("next"))).status == "completed"

    run(scenario)


def test_what_ended_cannot_be_cancelled_and_what_is_unknown_neither() -> None:
    async def scenario(world: World) -> None:
        await world.tell("hello")
        with pytest.raises(OperationFinal):
            await world.kernel.cancel("op0", "me")
        assert (await world.kernel.operation("op0")).status == "completed"
        with pytest.raises(UnknownOperation):
            await world.kernel.cancel("op7", "me")

    run(scenario)


def test_a_cancellation_whose_process_died_is_found_by_the_sweep() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        operation = await world.tell("1: go")
        await world.store.add_arrival(KEY, Cancellation("op0", "me"))
        assert (await world.finished(operation, within=120.0)).status == "cancelled"
        assert (await world.store.read(KEY)).arrivals == ()

    run(scenario)


@pytest.mark.parametrize(
    ("limits", "name"),
    [(Limits(model_steps=1), "model_steps"), (Limits(tool_calls=1), "tool_calls"), (Limits(total_tokens=2), "tokens")],
)
def test_an_agent_s_own_limits_end_its_turn_and_say_which(limits: Limits, name: str) -> None:
    async def scenario(world: World) -> None:
        world.agents.limits = limits
        failed = await world.finished(await world.tell("2: go"))
        assert failed.error is not None
        assert failed.error.code == "limit_exceeded"
        assert name in failed.error.detail
        world.agents.limits = None
        assert (await world.finished(await world.tell("2: go"))).status == "completed"

    run(scenario)


def test_a_turn_keeps_the_limits_that_it_began_with() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1,1: go")
        world.agents.limits = Limits(model_steps=1)
        assert (await world.finished(operation)).status == "completed"

    run(scenario)


def test_an_answer_counts_whatever_it_cost() -> None:
    async def scenario(world: World) -> None:
        world.agents.limits = Limits(total_tokens=1)
        assert (await world.tell("hello")).status == "completed"

    run(scenario)


def test_a_killed_process_is_followed_within_forty_seconds() -> None:
    async def scenario(world: World) -> None:
        world.foundry.latency = 3.0
        await world.accept("hello")
        first = world.process
        first.do(world.kernel.drive(KEY))
        await asyncio.sleep(2.0)
        began = world.now
        first.kill()
        world.start()
        while not (await world.kernel.operation("op0")).final:
            await asyncio.sleep(10.0)
            await world.kernel.sweep()
        assert world.now - began <= 45.0

    run(scenario)
