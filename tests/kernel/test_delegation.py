"""Connected agents: a call of one agent is a turn of another."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from aos.errors import BacklogFull
from aos.kernel.delegation import CUT, LONGEST_ANSWER, child_key, child_operation, told
from aos.kernel.kernel import KernelOptions
from aos.kernel.types import ConversationKey, Decision, Failure, Limits, Operation, Parent
from tests.kernel.world import KEY, World, run


def child_id(index: int = 0, parent: str = "op0", step: int = 1) -> str:
    return child_operation(f"{parent}.{step}.{index}")


def calls(operation: Operation) -> list[tuple[str, str]]:
    return [(call.agent, call.status) for call in operation.tool_calls]


async def child(world: World, index: int = 0, parent: str = "op0") -> Operation:
    found = await world.store.operation(child_id(index, parent))
    assert found is not None
    return found


def test_a_call_is_a_turn_of_the_other_agent_and_its_answer_the_result() -> None:
    async def scenario(world: World) -> None:
        asked = await world.tell("1: ask cfo/1: look it up")
        assert (asked.status, asked.waiting_on) == ("waiting", "agent")
        ended = await world.finished(asked)
        assert ended.status == "completed"
        tool = f"<{child_id()}.1.0>"
        assert ended.reply == f"answer to 1: ask cfo/1: look it up: answer to 1: look it up: {tool}"
        assert calls(ended) == [("cfo", "succeeded")]
        theirs = await child(world)
        assert (theirs.agent_id, theirs.conversation_id) == child_key("cfo", "op0.1.0")
        assert theirs.parent == Parent("op0", "op0.1.0", *KEY, ("ceo",))
        assert await world.store.due(world.now + 10_000, 10) == []

    run(scenario)


def test_other_tools_come_first_in_what_it_waits_for() -> None:
    async def scenario(world: World) -> None:
        asked = await world.tell("1: ask cfo/1: look it up")
        await asyncio.sleep(0.7)
        theirs = await child(world)
        assert (theirs.status, theirs.waiting_on) == ("waiting", "tool")
        assert (await world.finished(asked)).status == "completed"

    run(scenario)


def test_twenty_agents_work_side_by_side() -> None:
    async def scenario(world: World) -> None:
        begun = world.now
        asked = await world.tell("20: ask cfo/1: look it up")
        ended = await world.kernel.wait(asked, 60.0)
        assert ended.status == "completed"
        assert calls(ended) == [("cfo", "succeeded")] * 20
        assert world.now - begun < 10.0, "one after the other it would be 40 s"
        assert ended.reply is not None
        assert all(f"<{child_id(index)}.1.0>" in ended.reply for index in range(20))

    run(scenario)


def test_agents_ask_agents_as_deep_as_they_may() -> None:
    async def scenario(world: World) -> None:
        deep = "1: ask a1/1: ask a2/1: ask a3/hello"
        ended = await world.finished(await world.tell(deep))
        assert ended.reply is not None
        assert ended.reply.endswith("answer to hello: ")
        third = await world.store.operation(child_operation(f"{child_operation(f'{child_id()}.1.0')}.1.0"))
        assert third is not None
        assert third.parent is not None
        assert (third.parent.agents, third.parent.depth) == (("ceo", "a1", "a2"), 3)
        too_deep = await world.finished(await world.tell(deep.replace("hello", "1: ask a4/hello")))
        assert too_deep.status == "completed"
        assert "delegation_depth: ceo -> a1 -> a2 -> a3 is as deep" in str(too_deep.reply)

    run(scenario)


def test_an_agent_may_have_a_depth_of_its_own() -> None:
    async def scenario(world: World) -> None:
        world.agents.limits = Limits(delegation_depth=0)
        ended = await world.finished(await world.tell("1: ask cfo/hello"))
        assert calls(ended) == [("cfo", "refused")]
        assert await world.store.operation(child_id()) is None

    run(scenario)


@pytest.mark.parametrize("circle", ["1: ask ceo/hello", "1: ask cfo/1: ask ceo/hello"])
def test_agents_do_not_ask_in_circles(circle: str) -> None:
    async def scenario(world: World) -> None:
        ended = await world.finished(await world.tell(circle))
        assert ended.status == "completed"
        assert "delegation_cycle: ceo -> " in str(ended.reply)
        assert world.foundry.opened == circle.count("ask")

    run(scenario)


@pytest.mark.parametrize(
    ("state", "why"),
    [("unknown", "unknown_agent"), ("disabled", "agent_disabled"), ("stopped", "agent_stopped")],
)
def test_the_model_is_told_of_an_agent_that_cannot_help_and_goes_on(state: str, why: str) -> None:
    async def scenario(world: World) -> None:
        world.agents.states["cfo"] = state  # type: ignore[assignment]  # a parameter
        ended = await world.finished(await world.tell("2: ask cfo/hello"))
        assert (ended.status, calls(ended)) == ("completed", [("cfo", "failed")] * 2)
        assert f"agent_failed: agent 'cfo' gave no answer: {why}" in str(ended.reply)

    run(scenario)


def test_an_agent_that_fails_does_not_fail_the_one_that_asks() -> None:
    async def scenario(world: World) -> None:
        asked = await world.tell("2: ask cfo/hello")
        world.foundry.faults.append("refuse")
        ended = await world.finished(asked)
        assert ended.status == "completed"
        assert sorted(calls(ended)) == [("cfo", "failed"), ("cfo", "succeeded")]
        assert "The content filter refused the message." in str(ended.reply)

    run(scenario)


def test_an_agent_with_too_much_to_do_is_not_asked() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        with suppress(BacklogFull):
            for _ in range(4):
                await world.accept("1: wait", key=ConversationKey("cfo", "main"))
        ended = await world.finished(await world.tell("1: ask cfo/hello", key=ConversationKey("boss", "main")))
        assert (ended.status, calls(ended)) == ("completed", [("cfo", "failed")])
        assert "agent_backlog_full" in str(ended.reply)

    run(scenario, KernelOptions(agent_backlog=3))


def test_who_waits_for_a_person_keeps_the_asking_turn_waiting_until_its_deadline() -> None:
    async def scenario(world: World) -> None:
        asked = await world.tell("1: ask cfo/1: approve")
        await asyncio.sleep(400.0)
        assert (await world.kernel.operation("op0")).waiting_on == "agent"
        theirs = await child(world)
        assert theirs.waiting_on == "approval"
        await world.kernel.decide(Decision(theirs.tool_calls[0].request_id, True, "ada"))
        ended = await world.finished(asked)
        assert calls(ended) == [("cfo", "succeeded")]
        assert f"<{child_id()}.1.0>" in str(ended.reply)

    run(scenario)


def test_nobody_decides_and_the_asking_turn_still_answers() -> None:
    async def scenario(world: World) -> None:
        begun = world.now
        ended = await world.finished(await world.tell("1: ask cfo/1: approve"))
        assert (ended.status, calls(ended)) == ("completed", [("cfo", "timed_out")])
        assert 540.0 <= ended.updated_at - begun < 660.0
        theirs = await world.finished(await child(world))
        assert (theirs.status, theirs.error and theirs.error.detail) == ("cancelled", "Cancelled by operation op0.")
        assert world.bus.approvals[-1].approval.state == "withdrawn"

    run(scenario)


def test_a_turn_that_is_cancelled_has_those_it_asked_cancelled_and_those_they_asked() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        asked = await world.tell("2: ask cfo/1: ask cto/1: wait")
        await asyncio.sleep(5.0)
        await world.kernel.cancel(asked.operation_id, "ada")
        await asyncio.sleep(5.0)
        for index in range(2):
            theirs = await child(world, index)
            assert theirs.status == "cancelled"
            below = await world.store.operation(child_operation(f"{theirs.operation_id}.1.0"))
            assert below is not None
            assert below.status == "cancelled"
        assert (await world.tell("next")).status == "completed"

    run(scenario)


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        asked = await world.tell("1: ask cfo/hello")
        cancelled = await world.kernel.cancel(asked.operation_id, "ada")
        await asyncio.sleep(60.0)
        await world.kernel.drive(KEY)
        assert await world.kernel.operation("op0") == cancelled
        assert (await world.store.read(KEY)).arrivals == ()

    run(scenario)


def test_the_sweep_finds_what_lost_all_wake_ups() -> None:
    async def scenario(world: World) -> None:
        world.bus.wakes_come = False
        ended = await world.finished(await world.tell("2: ask cfo/1: look it up"))
        assert calls(ended) == [("cfo", "succeeded")] * 2

    run(scenario)


def dies_everywhere(text: str, wanted: str, *, both: bool) -> int:
    """Kills the process at each of its contacts with the world in turn; returns how many there are."""
    kill_at = 0
    while True:
        kill_at += 1

        async def scenario(world: World, at: int = kill_at) -> bool:
            first = world.process
            message = world.message(text)

            async def handler() -> None:
                await first.kernel.accept(KEY, message, "f", fresh=False)
                await first.kernel.drive(KEY)

            first.kill_at = at
            first.do(handler())
            if both:
                # Two processes share the work: some of the turns go on elsewhere meanwhile.
                await asyncio.sleep(0.3)
                world.start()
            await asyncio.sleep(50.0)
            died = not first.alive
            if died:
                second = world.process if both else world.start()
                await second.kernel.accept(KEY, message, "f", fresh=False)
                second.do(second.kernel.drive(KEY))
            else:
                first.kill_at = None
            ended = await world.finished(await world.kernel.operation("op0"))
            assert ended.reply == wanted, at
            assert set(world.foundry.steps.values()) <= {1, 2}, at
            assert world.foundry.steps["1: look it up", 1] == 2, at
            assert sorted(world.bus.ledger) == sorted(f"{child_id(index)}.1.0" for index in range(2)), at
            return died

        if not run(scenario):
            return kill_at


@pytest.mark.parametrize("both", [False, True])
def test_a_process_may_die_anywhere_while_agents_ask_agents(both: bool) -> None:
    text = "2: ask cfo/1: look it up"
    answers = [f"answer to 1: look it up: <{child_id(index)}.1.0>" for index in range(2)]
    passed = dies_everywhere(text, f"answer to {text}: {' '.join(answers)}", both=both)
    assert passed > (20 if both else 60)


def test_what_the_model_is_told_of_how_the_other_turn_ended() -> None:
    ended = Operation("op1", "cfo", "c", "completed", 0.0, 1.0, reply="yes")
    assert told("r", ended).output == "yes"
    assert told("r", replace(ended, truncated=True)).output == f"yes{CUT}"
    assert told("r", replace(ended, reply="x" * (LONGEST_ANSWER + 1))).output == "x" * LONGEST_ANSWER + CUT
    failed = told("r", replace(ended, status="failed", error=Failure("deadline_exceeded", "Too late.", "600 s.")))
    assert failed.failed
    assert failed.output == (
        '{"error": "agent_failed: agent \'cfo\' gave no answer: deadline_exceeded: Too late. 600 s."}'
    )
