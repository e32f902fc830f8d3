"""What is unavailable is waited for, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aos.errors import BusUnavailable, FoundryRefused, StorageUnavailable
from aos.kernel.driver import WAKE_SLACK
from aos.kernel.kernel import KernelOptions
from aos.kernel.ports import RemoteItem
from tests.kernel.process import FoundryLink
from tests.kernel.remote import Fault
from tests.kernel.world import KEY, World, code, run


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that run end just after a conversation was looked up; which ones were is in the list."""
    found: list[str] = []
    look = FoundryLink.items_after

    async def items_after(link: FoundryLink, remote_id: str, anchor: str | None) -> list[RemoteItem]:
        items = await look(link, remote_id, anchor)
        if running := link.foundry.running:
            await asyncio.wait(running)
            found.append(remote_id)
        return items

    monkeypatch.setattr(FoundryLink, "items_after", items_after)
    return found


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


@pytest.mark.parametrize("text", ["hello", "1: go", "2,1: go"])
@pytest.mark.parametrize("at", [0, 1])
def test_an_answer_that_comes_between_the_look_and_the_request_is_found(
    overtaken: list[str], text: str, at: int
) -> None:
    async def scenario(world: World) -> None:
        world.foundry.late = 130.0
        if at == 0:
            world.foundry.faults = ["late answer"]
        operation = await world.accept(text)
        world.process.do(world.kernel.drive(KEY))
        if at == 1:
            await asyncio.sleep(0.3)
            world.foundry.faults = ["late answer"]
        operation = await world.finished(operation)
        outputs = " ".join(f"<{request_id}>" for request_id in sorted(world.ledger))
        assert operation.reply == f"answer to {text}: {outputs}"
        assert set(world.foundry.steps.values()) == {1}
        assert operation.usage.adopted == ((at, text) != (1, "hello"))
        assert len(overtaken) == operation.usage.adopted

    run(scenario)


@pytest.mark.parametrize("text", ["hello", "1: go", "2,1: go"])
def test_a_step_that_ends_after_its_turn_does_no_harm_to_the_next(text: str) -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults = ["late answer"]
        assert code(await world.finished(await world.tell(text))) == "deadline_exceeded"
        assert world.foundry.running
        after = await world.finished(await world.tell("1: after"))
        assert after.reply == f"answer to 1: after: <{after.operation_id}.1.0>"
        assert not world.foundry.remotes["conv_1"].unanswered
        assert set(world.foundry.steps.values()) == {1}

    run(scenario, KernelOptions(turn=150.0))


def test_a_step_that_ends_while_the_next_turn_begins_does_no_harm_to_it(overtaken: list[str]) -> None:
    async def scenario(world: World) -> None:
        world.foundry.late = 150.0
        world.foundry.faults = ["late answer"]
        assert code(await world.finished(await world.tell("1: go"))) == "deadline_exceeded"
        assert overtaken == []
        after = await world.finished(await world.tell("after"))
        assert overtaken == ["conv_1"]
        assert after.reply == "answer to after: "
        assert set(world.foundry.steps.values()) == {1}

    run(scenario, KernelOptions(turn=100.0))


def test_a_refusal_is_told_as_it_is_where_the_conversation_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        await world.tell("hello")
        world.foundry.remotes["conv_1"].add("call", call_id="of another")

        async def items_after(link: FoundryLink, remote_id: str, anchor: str | None) -> list[RemoteItem]:
            raise FoundryRefused("The conversation has no such item.")

        monkeypatch.setattr(FoundryLink, "items_after", items_after)
        operation = await world.finished(await world.tell("hello again"))
        assert operation.error is not None
        assert "No tool output found" in operation.error.detail

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
