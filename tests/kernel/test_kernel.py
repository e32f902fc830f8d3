"""The executor, situation by situation."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Literal

import pytest

from aos.errors import BusUnavailable, ConversationUnreadable, OperationConflict, StorageUnavailable, UnknownOperation
from aos.kernel.driver import WAKE_SLACK
from aos.kernel.hold import BATCH
from aos.kernel.kernel import KernelOptions
from aos.kernel.ports import Change, Lease, Snapshot
from aos.kernel.types import (
    Conversation,
    ConversationKey,
    Limits,
    Message,
    Operation,
    Origin,
    ReplyAddress,
    ToolResult,
    Usage,
)
from aos.messaging.replies import agent_reply
from aos.views import operation_view
from tests.kernel.world import KEY, Fault, World, run

OTHER = ConversationKey("ceo", "other")


def code(operation: Operation) -> str:
    assert operation.error is not None
    return operation.error.code


# --- turns


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


# --- limits and deadlines


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
        assert (code(operation), operation.status) == ("foundry_refused", "failed")
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


# --- what is unavailable


def test_foundry_is_away_and_comes_back() -> None:
    async def scenario(world: World) -> None:
        world.foundry.down = True
        operation = await world.tell("hello")
        assert operation.status in ("queued", "running")
        await asyncio.sleep(100)
        assert (await world.store.read(KEY)).lease.owner == ""
        delays = [delay for _, delay in world.bus.wakes]
        assert len(delays) >= 4
        assert all(1.2 < later / earlier < 3.4 for earlier, later in itertools.pairwise(delays))
        world.foundry.down = False
        operation = await world.finished(operation)
        assert operation.status == "completed"
        assert (await world.store.read(KEY)).state.retries == 0
        wakes = len(world.bus.wakes)
        await asyncio.sleep(1000)
        assert len(world.bus.wakes) == wakes

    run(scenario)


def test_one_chain_of_wake_ups_however_many_messages_arrive() -> None:
    async def scenario(world: World) -> None:
        await world.tell("hello")
        world.foundry.down = True
        delay_of_bus = 0.5
        resume = world.resume
        world.resume = lambda key: world.later(delay_of_bus, lambda: resume(key))  # type: ignore[method-assign]
        begin = world.now
        await world.tell("again")
        while world.now < begin + 1500:
            await asyncio.sleep(0.2)
            world.process.do(world.kernel.drive(KEY))
        await asyncio.sleep(10)
        recent = [at for at, _ in world.bus.wakes if at > begin + 500]
        assert 2 <= len(recent) <= 5

    run(scenario, KernelOptions(turn=100_000.0))


def test_a_wake_up_may_come_a_little_early() -> None:
    async def scenario(world: World) -> None:
        world.bus.wakes_come = False
        world.foundry.down = True
        await world.tell("hello")
        for _ in range(3):
            await asyncio.sleep(world.bus.wakes[-1][1])
            await world.kernel.drive(KEY, resume=True)
        world.foundry.down = False
        await asyncio.sleep(world.bus.wakes[-1][1] - 1.5 * WAKE_SLACK)
        await world.kernel.drive(KEY, resume=True)
        assert (await world.kernel.operation("op0")).status == "queued"
        await asyncio.sleep(WAKE_SLACK)
        await world.kernel.drive(KEY)
        assert (await world.kernel.operation("op0")).status == "queued"
        await world.kernel.drive(KEY, resume=True)
        assert (await world.kernel.operation("op0")).status == "completed"

    run(scenario)


def test_an_agent_that_is_starting_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        world.agents.state = "starting"
        operation = await world.tell("hello")
        assert operation.status == "queued"
        await asyncio.sleep(30)
        world.agents.state = "ready"
        assert (await world.finished(operation)).status == "completed"

    run(scenario)


def test_an_agent_that_never_starts_ends_the_operation_at_its_deadline() -> None:
    async def scenario(world: World) -> None:
        world.agents.state = "starting"
        assert code(await world.finished(await world.tell("hello"))) == "agent_starting"

    run(scenario)


def test_foundry_that_stays_away_ends_the_turn_at_its_deadline() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: go")
        world.foundry.down = True
        operation = await world.finished(operation)
        assert code(operation) == "deadline_exceeded"
        world.foundry.down = False
        assert (await world.finished(await world.tell("hello"))).status == "completed"

    run(scenario)


@pytest.mark.parametrize("fault", ["never sent", "lost request", "lost answer", "late answer"])
@pytest.mark.parametrize("text", ["hello", "1: go", "2,1: go"])
@pytest.mark.parametrize("at", [0, 1])
def test_an_answer_that_got_lost_is_found_and_the_model_asked_once(fault: Fault, text: str, at: int) -> None:
    async def scenario(world: World) -> None:
        world.foundry.late = 130.0
        if at == 0:
            world.foundry.faults = [fault]
        operation = await world.tell(text)
        if at == 1:
            world.foundry.faults = [fault]
        operation = await world.finished(operation)
        outputs = " ".join(f"<{request_id}>" for request_id in sorted(world.ledger))
        assert operation.reply == f"answer to {text}: {outputs}"
        assert set(world.foundry.steps.values()) == {1}
        adopted = fault in ("lost answer", "late answer") and (at == 0 or text != "hello")
        assert operation.usage.adopted == adopted

    run(scenario)


def test_a_step_that_still_runs_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults = ["lost request"]
        world.foundry.latency = 20.0
        operation = await world.accept("hello")
        first = world.process
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(5)
        first.kill()
        world.start()
        assert (await world.finished(operation)).reply == "answer to hello: "
        assert set(world.foundry.steps.values()) == {1}

    run(scenario)


def test_the_bus_is_away_and_comes_back() -> None:
    async def scenario(world: World) -> None:
        world.bus.down = True
        operation = await world.accept("1: go", reply=True)
        with pytest.raises(BusUnavailable):
            await world.kernel.drive(KEY)
        await asyncio.sleep(40)
        world.bus.down = False
        operation = await world.finished(operation)
        assert operation.reply == "answer to 1: go: <op0.1.0>"
        assert world.bus.replies["op0"][-1] == operation
        assert set(world.foundry.steps.values()) == {1}

    run(scenario)


def test_a_reply_that_could_not_be_sent_goes_out_later() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("hello", reply=True)
        world.bus.down = True
        with pytest.raises(BusUnavailable):
            await world.kernel.drive(KEY)
        operation = await world.kernel.operation("op0")
        assert operation.status == "completed"
        await asyncio.sleep(100)
        await world.kernel.sweep()
        assert world.bus.replies == {}
        world.bus.down = False
        await asyncio.sleep(100)
        await world.kernel.sweep()
        assert world.bus.replies == {"op0": [operation]}
        assert await world.store.due(world.now + 1e6, 10) == []

    run(scenario)


def test_storage_is_away_and_comes_back() -> None:
    async def scenario(world: World) -> None:
        operation = await world.accept("1: go")
        drive = asyncio.create_task(world.kernel.drive(KEY))
        await asyncio.sleep(world.foundry.latency / 2)
        world.storage_down = True
        with pytest.raises(StorageUnavailable):
            await drive
        await asyncio.sleep(40)
        world.storage_down = False
        assert (await world.finished(operation)).reply == "answer to 1: go: <op0.1.0>"
        assert set(world.foundry.steps.values()) == {1}

    run(scenario)


# --- conversations that vanish


def test_a_conversation_that_is_gone_is_replaced_at_the_start_of_a_turn() -> None:
    async def scenario(world: World) -> None:
        await world.tell("hello")
        world.foundry.forget()
        assert (await world.tell("again")).reply == "answer to again: "
        assert world.foundry.opened == 2

    run(scenario)


def test_a_conversation_that_is_gone_ends_a_turn_in_the_middle() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: go")
        world.foundry.forget()
        assert code(await world.finished(operation)) == "conversation_gone"
        assert (await world.tell("hello")).status == "completed"
        assert world.foundry.opened == 2

    run(scenario)


def test_a_conversation_that_is_gone_before_it_was_settled() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults = ["refuse"]
        await world.tell("hello")
        world.foundry.forget()
        assert (await world.tell("again")).status == "completed"

    run(scenario)


def test_conversations_that_always_vanish_end_the_turn() -> None:
    async def scenario(world: World) -> None:
        opens = world.foundry.open

        def vanishing() -> str:
            remote_id = opens()
            world.foundry.forget()
            return remote_id

        world.foundry.open = vanishing  # type: ignore[method-assign]
        assert code(await world.tell("hello")) == "conversation_gone"
        assert world.foundry.opened == 2

    run(scenario)


# --- crashes


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
        # It stalls so badly that it does not renew either.
        frozen = world.store.renew

        async def no_renewal(key: ConversationKey, etag: str, lease: Lease) -> str:
            if lease.owner == first.name:
                raise StorageUnavailable("stalled")
            return await frozen(key, etag, lease)

        world.store.renew = no_renewal  # type: ignore[method-assign]
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
        # Its step added to the conversation, with calls of its own; that heals within a turn.
        later = [await world.finished(await world.tell(f"later {number}")) for number in range(2)]
        assert later[-1].status == "completed"

    run(scenario)


# --- waiting


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


# --- the sweep


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


def test_an_entry_that_always_fails_does_not_keep_the_sweep_from_the_others() -> None:
    async def scenario(world: World) -> None:
        await world.accept("hello")
        await world.accept("hello", key=OTHER)
        await asyncio.sleep(61)
        read = world.store.read

        async def broken(key: ConversationKey) -> object:
            if key == KEY:
                raise UnknownOperation("What lies there cannot be read.")
            return await read(key)

        world.store.read = broken  # type: ignore[assignment]
        assert await world.kernel.sweep(limit=1) == 1
        assert await world.kernel.sweep(limit=1) == 1
        assert (await world.kernel.operation("op1")).status == "completed"

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


# --- parked messages and further attempts

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
