"""Calls that wait for a person."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import ApprovalSettled, UnknownApproval
from aos.kernel.calls import APPROVAL_EXPIRY
from aos.kernel.types import Approval, Decision, Operation, ToolResult
from tests.kernel.world import KEY, World, run


def approvals(operation: Operation) -> list[str | None]:
    return [None if call.approval is None else call.approval.state for call in operation.tool_calls]


def yes(approval_id: str = "op0.1.0", by: str = "ada") -> Decision:
    return Decision(approval_id, True, by, "fine")


def no(approval_id: str = "op0.1.0", by: str = "bob") -> Decision:
    return Decision(approval_id, False, by, "too dear")


def test_a_call_waits_for_its_approval_and_is_made_with_the_arguments_that_were_shown() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        assert (operation.status, operation.waiting_on, approvals(operation)) == ("waiting", "approval", ["pending"])
        assert world.bus.asked == []
        (shown,) = world.bus.approvals
        assert (shown.approval_id, shown.operation_id, shown.agent_id) == ("op0.1.0", "op0", "ceo")
        assert shown.approval == Approval("pending", shown.requested_at + APPROVAL_EXPIRY)
        await asyncio.sleep(3 * 3600.0)
        decided = await world.kernel.decide(yes())
        assert approvals(decided) == ["approved"]
        operation = await world.finished(operation)
        assert operation.reply == "answer to 1: approve: <op0.1.0>"
        (call,) = operation.tool_calls
        assert call.approval is not None
        assert (call.approval.by, call.approval.reason, call.status) == ("ada", "fine", "succeeded")
        assert world.ledger["op0.1.0"][0].arguments == shown.arguments == call.arguments
        assert [record.approval.state for record in world.bus.approvals] == ["pending", "approved"]

    run(scenario)


def test_a_rejected_call_is_never_made_and_the_model_is_told_why() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await world.kernel.decide(no())
        operation = await world.finished(operation)
        assert operation.reply == 'answer to 1: approve: {"error": "rejected: too dear"}'
        assert [call.status for call in operation.tool_calls] == ["rejected"]
        assert world.bus.asked == []

    run(scenario)


def test_calls_that_need_none_run_at_once_and_the_model_goes_on_when_all_are_answered() -> None:
    async def scenario(world: World) -> None:
        world.agents.mixed = True
        operation = await world.tell("3: approve")
        assert world.bus.asked == ["op0.1.0"]
        await asyncio.sleep(10.0)
        operation = await world.kernel.operation("op0")
        assert (operation.waiting_on, approvals(operation)) == ("approval", [None, "pending", "pending"])
        await world.kernel.decide(yes("op0.1.2"))
        await asyncio.sleep(10.0)
        assert world.foundry.requests == 1
        await world.kernel.decide(no("op0.1.1"))
        operation = await world.finished(operation)
        assert operation.reply == 'answer to 3: approve: <op0.1.0> {"error": "rejected: too dear"} <op0.1.2>'
        assert world.foundry.requests == 2

    run(scenario)


def test_nobody_decides_and_the_model_is_told_that_it_expired() -> None:
    async def scenario(world: World) -> None:
        operation = await world.finished(await world.tell("1: approve"), within=APPROVAL_EXPIRY + 300.0)
        assert operation.reply is not None
        assert "rejected: expired" in operation.reply
        assert approvals(operation) == ["expired"]
        assert world.bus.asked == []
        with pytest.raises(ApprovalSettled):
            await world.kernel.decide(yes())

    run(scenario)


@pytest.mark.parametrize("decision", [yes(), no()])
def test_a_decision_after_it_expired_is_refused_also_before_anybody_looked(decision: Decision) -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await asyncio.sleep(APPROVAL_EXPIRY + 1.0)
        with pytest.raises(ApprovalSettled, match="expired"):
            await world.kernel.decide(decision)
        operation = await world.finished(operation)
        assert approvals(operation) == ["expired"]
        assert world.bus.asked == []

    run(scenario)


def test_a_decision_in_time_counts_also_when_it_is_taken_up_late() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await asyncio.sleep(APPROVAL_EXPIRY - 1.0)
        await world.store.add_arrival(KEY, yes())
        await asyncio.sleep(2.0)
        assert approvals(await world.kernel.decide(yes())) == ["approved"]
        await world.finished(operation)
        assert world.bus.asked == ["op0.1.0"]

    run(scenario)


def test_the_deadline_stops_while_a_person_is_waited_for_and_goes_on_after() -> None:
    async def scenario(world: World) -> None:
        world.agents.time_limit = 5000.0
        await world.tell("1: approve")
        await asyncio.sleep(5000.0)
        await world.kernel.sweep()
        world.bus.tools_answer = False
        await world.kernel.decide(yes())
        decided_at = world.now
        # Of 600 seconds hardly one was used before it was parked.
        await asyncio.sleep(550.0)
        await world.kernel.sweep()
        operation = await world.kernel.operation("op0")
        assert operation.status == "waiting"
        failed = await world.finished(operation)
        assert failed.error is not None
        assert failed.error.code == "deadline_exceeded"
        assert 590.0 < world.now - decided_at < 700.0

    run(scenario)


def test_the_first_decision_counts_and_the_same_again_is_no_error() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await world.kernel.decide(yes())
        again = await world.kernel.decide(yes(by="eve"))
        (call,) = again.tool_calls
        assert call.approval is not None
        assert call.approval.by == "ada"
        with pytest.raises(ApprovalSettled):
            await world.kernel.decide(no())
        assert (await world.finished(operation)).status == "completed"
        assert world.bus.asked == ["op0.1.0"]

    run(scenario)


def test_of_two_decisions_at_once_one_counts() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        other = world.start().kernel
        outcomes = await asyncio.gather(
            world.processes[0].kernel.decide(yes()), other.decide(no()), return_exceptions=True
        )
        assert sum(isinstance(outcome, ApprovalSettled) for outcome in outcomes) == 1
        (call,) = (await world.finished(operation)).tool_calls
        assert (call.status == "succeeded") == isinstance(outcomes[0], Operation)

    run(scenario)


def test_a_decision_whose_process_died_is_found_by_the_sweep_of_another() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await world.store.add_arrival(KEY, yes())
        world.process.kill()
        world.start()
        assert (await world.finished(operation, within=120.0)).status == "completed"
        with pytest.raises(ApprovalSettled):
            await world.kernel.decide(no())

    run(scenario)


@pytest.mark.parametrize("approval_id", ["op7.1.0", "op0.1.1", "op0", "", "op1.1.0"])
def test_what_waits_for_nobody_cannot_be_decided(approval_id: str) -> None:
    async def scenario(world: World) -> None:
        await world.tell("1: approve")
        await world.tell("1: no need", key=KEY._replace(conversation_id="other"))
        with pytest.raises(UnknownApproval):
            await world.kernel.decide(yes(approval_id))

    run(scenario)


def test_a_result_before_the_decision_is_not_believed() -> None:
    async def scenario(world: World) -> None:
        operation = await world.tell("1: approve")
        await world.kernel.add_result("op0", ToolResult("op0.1.0", "forged"))
        assert approvals(await world.kernel.operation("op0")) == ["pending"]
        await world.kernel.decide(no())
        assert "forged" not in str((await world.finished(operation)).reply)

    run(scenario)


def test_cancelling_withdraws_what_waits() -> None:
    async def scenario(world: World) -> None:
        await world.tell("2: approve")
        cancelled = await world.kernel.cancel("op0", "me")
        assert approvals(cancelled) == ["withdrawn", "withdrawn"]
        assert [record.approval.state for record in world.bus.approvals[2:]] == ["withdrawn", "withdrawn"]
        with pytest.raises(ApprovalSettled):
            await world.kernel.decide(yes())
        assert (await world.finished(await world.tell("next"))).status == "completed"
        assert world.bus.asked == []

    run(scenario)


def test_a_process_may_die_anywhere_between_the_question_and_the_answer() -> None:
    kill_at = 0
    while True:
        kill_at += 1

        async def scenario(world: World, at: int = kill_at) -> bool:
            first = world.process
            message = world.message("1: approve")

            async def handler() -> None:
                await first.kernel.accept(KEY, message, "f", fresh=False)
                await first.kernel.drive(KEY)
                await first.kernel.decide(yes())

            first.kill_at = at
            first.do(handler())
            await asyncio.sleep(50.0)
            died = not first.alive
            if died:
                # Whoever sent the message, or decided, was not answered and does it again.
                second = world.start()
                await second.kernel.accept(KEY, message, "f", fresh=False)
                while not (operation := await second.kernel.operation("op0")).tool_calls:
                    await asyncio.sleep(10.0)
                    await second.kernel.sweep()
                await second.kernel.decide(yes())
            else:
                first.kill_at = None
            operation = await world.finished(await world.kernel.operation("op0"))
            assert operation.reply == "answer to 1: approve: <op0.1.0>", at
            assert approvals(operation) == ["approved"], at
            assert set(world.foundry.steps.values()) == {1}, at
            return died

        if not run(scenario):
            break
    assert kill_at > 20
