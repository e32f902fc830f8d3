"""Errors that do not go away, and errors that nobody foresaw: they end something, and block nothing for ever."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aos.errors import AosError, UnknownEntity
from aos.kernel.sending import UNDELIVERABLE
from aos.kernel.types import Message, Operation, Origin, ReplyAddress
from tests.kernel.world import KEY, World, run

REFUSED = UnknownEntity("No queue of this name.")
BUG = KeyError("nobody foresaw this")


async def everything_is_over(world: World) -> None:
    await asyncio.sleep(100)
    await world.kernel.sweep()
    assert await world.store.due(world.now + 1e6, 10) == []
    assert (await world.store.read(KEY)).state.outbox == ()


@pytest.mark.parametrize("kind", ["reply", "park"])
def test_what_can_never_be_sent_does_not_hold_up_the_next_message(kind: str) -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {kind: REFUSED}
        message = Message("op_r", "hello", world.now, world.now + 600.0, reply_to=ReplyAddress("answers"))
        if kind == "park":
            world.foundry.faults.append("refuse")
            message = Message("op_p", "hello", world.now, world.now + 600.0, origin=Origin("agent-events", "m1", "{}"))
        accepted, _ = await world.kernel.accept(KEY, message, "f", fresh=False)
        await world.kernel.drive(KEY)
        ended = await world.kernel.operation(accepted.operation_id)
        assert ended.status == ("failed" if kind == "park" else "completed")
        assert (await world.tell("the next one")).status == "completed"
        await everything_is_over(world)

    run(scenario)


def test_a_refused_effect_does_not_take_the_others_with_it() -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {"park": REFUSED}
        world.foundry.faults.append("refuse")
        to, origin = ReplyAddress("answers"), Origin("agent-events", "m1", "{}")
        message = Message("op_p", "hello", world.now, world.now + 600.0, reply_to=to, origin=origin)
        await world.kernel.accept(KEY, message, "f", fresh=False)
        await world.kernel.drive(KEY)
        assert [reply.status for reply in world.bus.replies["op_p"]][-1:] == ["failed"]

    run(scenario)


def test_a_call_that_can_never_be_sent_is_told_to_the_model() -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {"tool": REFUSED}
        operation = await world.tell("2: tools")
        assert operation.status == "completed"
        assert operation.reply is not None
        assert operation.reply.count("unknown_entity: the call could not be sent") == 2
        assert [call.status for call in operation.tool_calls] == ["failed", "failed"]
        await everything_is_over(world)

    run(scenario)


@pytest.mark.parametrize("kind", ["reply", "tool"])
def test_an_unforeseen_error_is_tried_again_for_a_while_and_then_given_up(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {kind: BUG}
        operation = await world.accept("1: tool", reply=True)
        world.process.do(world.kernel.drive(KEY))
        assert (await world.finished(operation)).status == "completed"
        begun = world.now
        while (await world.store.read(KEY)).state.outbox:
            assert world.now < begun + UNDELIVERABLE + 200
            await asyncio.sleep(30)
            world.process.do(world.kernel.sweep())
        assert (await world.tell("the next one")).status == "completed"
        await everything_is_over(world)

    run(scenario)
    if kind == "reply":
        assert any("is given up" in record.message and record.exc_info for record in caplog.records)


def test_an_unforeseen_error_that_goes_away_loses_nothing() -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {"reply": BUG}
        operation = await world.accept("hello", reply=True)
        world.process.do(world.kernel.drive(KEY))
        await asyncio.sleep(100)
        world.bus.refused = {}
        await world.kernel.sweep()
        assert world.bus.replies[operation.operation_id]
        await everything_is_over(world)

    run(scenario)


@pytest.mark.parametrize("where", ["bind", "model step"])
def test_an_unforeseen_error_before_or_in_a_step_ends_with_the_deadline(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: World) -> Operation:
        if where == "bind":
            world.agents.state = "broken"
        else:
            world.foundry.faults += ["bug"] * 100
        ended = await world.finished(await world.accept("hello", reply=True), within=800.0)
        world.agents.state = "ready"
        world.foundry.faults.clear()
        assert (await world.finished(await world.accept("again"))).status == "completed"
        return ended

    ended = run(scenario)
    assert ended.status == "failed"
    assert ended.error is not None
    assert ended.error.code == ("internal_error" if where == "bind" else "deadline_exceeded")
    assert any("nobody foresaw" in record.message and record.exc_info for record in caplog.records)


def test_a_wake_up_that_can_never_be_sent_is_left_to_the_sweep(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        world.bus.refused = {"wake": AosError("No such queue.")}
        world.foundry.down = True
        operation = await world.tell("hello")
        world.foundry.down = False
        assert (await world.finished(operation)).status == "completed"

    with caplog.at_level(logging.ERROR, "aos.kernel"):
        run(scenario)
    assert "the sweep goes on" in caplog.text
