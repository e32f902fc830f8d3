"""Turns without trouble, and what comes between their steps."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import OperationConflict, UnknownOperation
from aos.kernel.hold import BATCH
from aos.kernel.ports import Change, Lease, Snapshot
from aos.kernel.types import (
    Conversation,
    ConversationKey,
    ToolResult,
    Usage,
)
from tests.kernel.world import KEY, World, code, run


def test_a_text_turn() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("hello")
        assert (operation.status, operation.reply) == ("completed", "answer to hello: ")
        assert (operation.usage, operation.model, operation.agent_version) == (Usage(1, 1, 2), "llama", "1")
        snapshot = await world.store.read(KEY)
        assert (snapshot.inbox, snapshot.lease.owner, snapshot.state.turns) == ((), "", 1)
        assert world.foundry.requests == 1
        assert await world.store.due(world.now + 1e6, 10) == []

    run(scenario)


def test_a_turn_with_a_tool() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: go")
        assert (operation.status, operation.waiting_on) == ("waiting", "tool")
        assert (await world.store.read(KEY)).lease.owner == ""
        operation = await world.finished(operation)
        assert operation.reply == "answer to 1: go: <op0.1.0>"
        assert [(call.request_id, call.status) for call in operation.tool_calls] == [("op0.1.0", "succeeded")]
        assert world.bus.asked == ["op0.1.0"]

    run(scenario)


def test_tools_of_one_step_run_side_by_side_and_answer_in_any_order() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        operation = await world.tell("3,1: go")
        assert world.bus.asked == ["op0.1.0", "op0.1.1", "op0.1.2"]
        for index in (2, 0, 2):
            await world.kernel.add_result("op0", world.ledger[f"op0.1.{index}"][1])
            assert (await world.kernel.operation("op0")).status == "waiting"
        assert world.foundry.requests == 1
        await world.kernel.add_result("op0", world.ledger["op0.1.1"][1])
        await world.kernel.add_result("op0", world.ledger["op0.2.0"][1])
        operation = await world.kernel.operation("op0")
        assert operation.reply == "answer to 3,1: go: <op0.1.0> <op0.1.1> <op0.1.2> <op0.2.0>"
        assert world.foundry.requests == 3
        await world.kernel.add_result("op0", ToolResult("op0.1.1", "late"))
        assert await world.kernel.operation("op0") == operation
        assert (await world.store.read(KEY)).arrivals == ()

    run(scenario)


def test_a_result_that_comes_while_the_model_is_asked_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        await world.tell("2: go")
        first = asyncio.create_task(world.kernel.add_result("op0", world.ledger["op0.1.0"][1]))
        await world.kernel.add_result("op0", world.ledger["op0.1.1"][1])
        await first
        assert (await world.kernel.operation("op0")).status == "completed"

    run(scenario)


def test_a_message_that_comes_while_its_driver_looks_for_the_last_time_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        read = world.store.read

        async def slow(key: ConversationKey) -> Snapshot:
            snapshot = await read(key)
            await asyncio.sleep(1)
            return snapshot

        world.store.read = slow  # type: ignore[method-assign]
        drive = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(0.5)
        await world.accept("hello")
        await world.kernel.drive(KEY)
        await drive
        assert (await world.kernel.operation("op0")).status == "completed"

    run(scenario)


def test_a_call_that_is_refused_goes_back_to_the_model() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("2: refused")
        no = "There is no tool named unknown."
        assert operation.reply == f"answer to 2: refused: {no} {no}"
        assert [call.status for call in operation.tool_calls] == ["refused", "refused"]
        assert world.bus.asked == []

    run(scenario)


def test_a_turn_stays_with_the_version_of_its_agent() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: go")
        world.agents.version = 2
        operation = await world.finished(operation)
        assert operation.agent_version == "1"
        assert (await world.tell("hello")).agent_version == "2"

    run(scenario)


@pytest.mark.parametrize("state", ["unknown", "disabled"])
def test_an_agent_that_is_not_there_ends_the_operation(state: str) -> None:
    async def scenario(world: World) -> None:
        world.agents.state = "unknown" if state == "unknown" else "disabled"
        operation = await world.tell("hello", reply=True)
        assert operation.status == "failed"
        assert code(operation) == {"unknown": "unknown_agent", "disabled": "agent_disabled"}[state]
        assert world.bus.replies == {"op0": [operation]}
        world.agents.state = "ready"
        assert (await world.tell("again")).status == "completed"

    run(scenario)


def test_a_disabled_agent_refuses_a_full_backlog_in_writes_of_bounded_size() -> None:
    async def scenario(world: World) -> None:
        world.agents.state = "disabled"
        for number in range(100):
            await world.accept(f"{number}", reply=True)
        sizes: list[int] = []
        commit = world.store.commit

        async def measured(key: ConversationKey, etag: str | None, change: Change) -> str:
            sizes.append(1 + len(change.messages) + len(change.arrivals) + len(change.operations))
            return await commit(key, etag, change)

        world.store.commit = measured  # type: ignore[method-assign]
        await world.kernel.drive(KEY)
        assert sorted(world.bus.replies) == sorted(f"op{number}" for number in range(100))
        assert max(sizes) <= 100
        assert await world.store.due(world.now + 1e6, 1000) == []

    run(scenario)


def test_more_results_than_one_write_takes_up() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        await world.tell("60: go")
        for _, result in world.ledger.values():
            await world.store.add_arrival(KEY, result)
        for index in range(BATCH):
            await world.store.add_arrival(KEY, ToolResult(f"op9.1.{index}", "of nobody"))
        await world.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "completed"
        assert (await world.store.read(KEY)).arrivals == ()

    run(scenario)


def test_two_messages_are_answered_in_order() -> None:
    async def scenario(world: World) -> None:
        first, second = await world.accept("first"), await world.accept("1: second")
        third = await world.accept("third")
        await world.kernel.drive(KEY)
        assert (await world.finished(third)).status == "completed"
        assert [(await world.kernel.operation(op.operation_id)).status for op in (first, second)] == ["completed"] * 2
        texts = [item.text for item in world.foundry.remotes["conv_1"].items if item.kind == "user"]
        assert texts == ["first", "1: second", "third"]
        assert world.foundry.opened == 1

    run(scenario)


def test_a_message_waits_while_the_turn_before_it_waits_for_a_tool() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        await world.tell("1: first")
        second = await world.tell("second")
        assert second.status == "queued"
        assert world.foundry.requests == 1
        await world.kernel.add_result("op0", world.ledger["op0.1.0"][1])
        assert (await world.kernel.operation("op1")).reply == "answer to second: "

    run(scenario)


def test_conversations_run_side_by_side() -> None:
    async def scenario(world: World) -> None:
        begin = world.now
        await asyncio.gather(*(world.tell(f"{n}", key=ConversationKey("ceo", f"c{n}")) for n in range(20)))
        assert world.now - begin < 2 * world.foundry.latency

    run(scenario)


def test_the_same_message_again_is_one_turn() -> None:
    async def scenario(world: World) -> None:
        message = world.message("hello")
        first, new = await world.kernel.accept(KEY, message, "f", fresh=True)
        assert new
        await world.kernel.drive(KEY)
        again, new = await world.kernel.accept(KEY, message, "f", fresh=True)
        await world.kernel.drive(KEY)
        assert (again.status, new, first.status) == ("completed", False, "queued")
        assert world.foundry.requests == 1
        with pytest.raises(OperationConflict):
            await world.kernel.accept(KEY, message, "g", fresh=True)

    run(scenario)


def test_a_message_that_was_slow_to_be_stored_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        await world.accept("slow")
        (slow,) = (await world.store.read(KEY)).inbox
        state = Conversation(KEY, last_seq=slow.seq + 1_000_000)
        await world.store.commit(KEY, None, Change(state, Lease()))
        await world.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "completed"
        assert (await world.store.read(KEY)).inbox == ()
        assert (await world.tell("next")).status == "completed"

    run(scenario)


def test_an_operation_that_nobody_knows() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(UnknownOperation, match="op_x"):
            await world.kernel.operation("op_x")

    run(scenario)


def test_the_sender_is_told_how_it_ended() -> None:
    async def scenario(world: World) -> None:
        operation = await world.finished(await world.tell("1: go", reply=True))
        assert world.bus.replies == {"op0": [operation]}
        assert await world.store.due(world.now + 1e6, 10) == []

    run(scenario)
