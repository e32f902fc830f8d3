"""Conversations that outgrow the model's context: they go on, for ever, and nothing that was accepted is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from aos.kernel.kernel import KernelOptions
from aos.kernel.ports import RemoteItem
from aos.kernel.rollover import (
    ALREADY_CALLED,
    BEGIN,
    LONGEST_RECENT,
    SUMMARY_REQUEST,
    TURNS_BETWEEN,
    message_of,
    recent,
)
from aos.kernel.turn import ROLLOVERS_KEPT
from aos.kernel.types import Conversation, Limits, Operation
from tests.kernel.remote import Fault, Remote, Summaries
from tests.kernel.world import KEY, World, run

SMALL = KernelOptions(context_tokens=60)


async def state_of(world: World) -> Conversation:
    return (await world.store.read(KEY)).state


async def full(world: World) -> None:
    """A conversation that is to be rolled over before its next turn."""
    world.foundry.counted = True
    for number in range(3):
        assert (await world.tell(f"message {number} {'x' * 30}")).status == "completed"
    assert (await state_of(world)).context_tokens >= 60


def given(world: World) -> list[str]:
    """What users said in the newest Foundry conversation."""
    return [item.text for item in newest(world).items if item.kind == "user"]


def newest(world: World) -> Remote:
    return world.foundry.remotes[f"conv_{world.foundry.opened}"]


def test_a_thousand_events_in_one_perpetual_conversation() -> None:
    async def scenario(world: World) -> None:
        world.foundry.counted = True
        for number in range(1000):
            text = f"1: event {number}" if number % 7 == 0 else f"event {number}"
            operation = await world.tell(text, reply=True)
            if operation.status == "waiting":
                operation = await world.finished(operation)
            assert (operation.status, operation.conversation_id) == ("completed", "main")
            assert operation.reply is not None
            assert operation.reply.startswith(f"answer to {text}: ")
            assert world.bus.replies[operation.operation_id] == [operation]
        state = await state_of(world)
        assert state.turns == 1000
        assert state.rolled_over >= 10
        assert state.rolled_over == world.foundry.summed_up == len(world.foundry.remotes) - 1
        assert len(state.rollovers) == min(state.rolled_over, ROLLOVERS_KEPT)
        assert {rollover.carried for rollover in state.rollovers} == {"summary"}
        # Of all the conversations that there were, none grew much beyond the limit.
        assert max(remote.tokens for remote in world.foundry.remotes.values()) < 1000 + 200
        assert set(world.foundry.steps.values()) == {1}

    run(scenario, KernelOptions(context_tokens=1000))


def test_the_summary_is_carried_and_the_history_shows_where() -> None:
    async def scenario(world: World) -> None:
        await full(world)
        before = await state_of(world)
        operation = await world.tell("and now?")
        assert operation.reply == "answer to and now?: "
        assert len(given(world)) == 1
        assert given(world)[0].startswith(f"{BEGIN}\nsummary 1\n")
        assert message_of(given(world)[0]) == "and now?"
        assert message_of("as it is") == "as it is"
        state = await state_of(world)
        (rollover,) = state.rollovers
        assert (rollover.remote_id, rollover.turns, rollover.carried) == (before.remote_id, 3, "summary")
        assert (state.carried, state.rolled_over) == ("", 1)
        assert operation.usage.total_tokens > newest(world).tokens, "the summary's tokens count"
        await world.tell("more")
        assert given(world)[1:] == ["more"]

    run(scenario, SMALL)


@pytest.mark.parametrize("summaries", ["tools", "nothing", "refused", "late"])
def test_without_a_summary_what_was_said_last_is_carried(summaries: Summaries) -> None:
    async def scenario(world: World) -> None:
        await full(world)
        world.foundry.summaries = summaries
        operation = await world.finished(await world.accept("and now?"))
        assert operation.reply == "answer to and now?: "
        assert f"User: message 2 {'x' * 30}\nYou: answer to message 2 {'x' * 30}:" in given(world)[0]
        assert SUMMARY_REQUEST not in given(world)[0]
        assert [rollover.carried for rollover in (await state_of(world)).rollovers] == ["recent"]
        assert world.bus.asked == []

    run(scenario, replace(SMALL, model_timeout=30.0))


def test_a_conversation_that_vanished_has_nothing_to_be_summed_up() -> None:
    async def scenario(world: World) -> None:
        await full(world)
        world.foundry.forget()
        assert (await world.tell("and now?")).reply == "answer to and now?: "
        assert given(world) == ["and now?"]
        assert (await state_of(world)).rollovers == ()

    run(scenario, SMALL)


def test_a_limit_below_what_one_turn_needs_does_not_roll_over_every_time() -> None:
    async def scenario(world: World) -> None:
        world.foundry.counted = True
        for number in range(10):
            assert (await world.tell(f"message {number}")).status == "completed"
        assert (await state_of(world)).rolled_over == (10 - 1) // TURNS_BETWEEN

    run(scenario, KernelOptions(context_tokens=1))


def test_an_agent_s_own_limit_counts() -> None:
    async def scenario(world: World) -> None:
        world.agents.limits = Limits(context_tokens=60)
        await full(world)
        await world.tell("and now?")
        assert (await state_of(world)).rolled_over == 1

    run(scenario)


def test_a_step_that_finds_no_room_is_asked_again_in_a_new_conversation() -> None:
    async def scenario(world: World) -> None:
        await world.tell("before")
        world.foundry.faults.append("too long")
        operation = await world.tell("and now?")
        assert operation.reply == "answer to and now?: "
        assert (await state_of(world)).rolled_over == 1
        world.foundry.faults += ["too long", "refuse", "too long"]
        operation = await world.tell("always too long")
        assert (operation.status, operation.error and operation.error.code) == ("failed", "context_length_exceeded")
        assert (await world.tell("the next one")).status == "completed"

    run(scenario)


def test_results_that_find_no_room_are_carried_as_text_and_no_call_is_made_again() -> None:
    async def scenario(world: World) -> None:
        await world.tell("before")
        operation = await world.accept("2: tools")
        await world.kernel.drive(KEY)
        world.foundry.faults.append("too long")
        operation = await world.finished(operation)
        assert operation.reply == "answer to 2: tools: "
        assert sorted(world.bus.asked) == ["op1.1.0", "op1.1.1"]
        (told,) = given(world)
        assert ALREADY_CALLED in told
        assert "<op1.1.0>" in told
        assert "<op1.1.1>" in told
        assert "summary 1" in told
        assert len(operation.tool_calls) == 2
        assert (await world.tell("the next one")).status == "completed"

    run(scenario)


@pytest.mark.parametrize("fault", ["lost answer", "late answer"])
@pytest.mark.parametrize("summaries", ["text", "tools"])
def test_a_summary_that_got_lost_is_not_the_answer_to_the_message(summaries: Summaries, fault: Fault) -> None:
    async def scenario(world: World) -> None:
        world.foundry.summaries = summaries
        await world.tell("before")
        operation = await world.accept("2: tools")
        await world.kernel.drive(KEY)
        world.foundry.faults += ["too long", fault]
        operation = await world.finished(operation)
        assert operation.reply == "answer to 2: tools: "
        assert sorted(world.bus.asked) == ["op1.1.0", "op1.1.1"]
        assert (await state_of(world)).rolled_over == 1
        (told,) = given(world)
        assert "<op1.1.1>" in told
        if (summaries, fault) == ("text", "lost answer"):
            assert "summary 1" in told
            assert world.foundry.summed_up == 1

    run(scenario)


@pytest.mark.parametrize("summaries", ["text", "tools"])
def test_a_process_may_die_anywhere_in_a_roll_over(summaries: Summaries) -> None:
    """Before and after every contact with the world: the message is asked once and answered."""

    async def scenario(world: World, at: int) -> bool:
        await full(world)
        world.foundry.summaries = summaries
        first = world.process
        message = world.message("1: and now?", reply=True)
        first.kill_at = first.points + at
        first.do(first.kernel.accept(KEY, message, "f", fresh=False))
        await asyncio.sleep(1)
        first.do(first.kernel.drive(KEY))
        await asyncio.sleep(20)
        died = not first.alive
        second = world.start()
        await second.kernel.accept(KEY, message, "f", fresh=False)
        second.do(second.kernel.drive(KEY))
        operation = await world.finished(Operation(message.operation_id, *KEY, "queued", 0.0, 0.0))
        await asyncio.sleep(300)
        second.do(second.kernel.sweep())
        await asyncio.sleep(1)
        assert operation.reply == f"answer to 1: and now?: <{message.operation_id}.1.0>", at
        assert world.foundry.steps["1: and now?", 1] == world.foundry.steps["1: and now?", 2] == 1, at
        state = await state_of(world)
        assert state.rolled_over == 1, at
        assert state.outbox == (), at
        assert all(reply == operation for reply in world.bus.replies[message.operation_id]), at
        return died

    kill_at, died = 0, True
    while died:
        kill_at += 1
        died = run(partial(scenario, at=kill_at), SMALL)
    assert kill_at > 25


def test_what_is_carried_of_a_long_conversation_is_bounded() -> None:
    items = [RemoteItem(f"i{number}", "user", text=f"{number} {'y' * 1000}") for number in range(100)]
    carried = recent(items)
    assert len(carried) < LONGEST_RECENT + 200
    assert carried.endswith(items[-1].text)
    assert recent([]) == ""
