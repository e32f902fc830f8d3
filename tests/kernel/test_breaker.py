"""Circuit breakers: alone, and around a Foundry that is dead for an hour."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict

import pytest

from aos.errors import CircuitOpen, FoundryRefused, FoundryUnavailable, StorageUnavailable
from aos.kernel.breaker import BUSY, FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, Breaker
from aos.kernel.driver import WAKE_SLACK
from aos.kernel.kernel import Kernel, KernelOptions
from aos.kernel.types import ConversationKey, Message, Operation
from tests.kernel.world import KEY, World, run

HOUR = 3600.0
DEPLOYMENT = "llama"


class ManualClock:
    time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a breaker never waits")


def failing(breaker: Breaker, error: Exception | None = None) -> None:
    error = error or FoundryUnavailable("No connection.", sent=False)
    with pytest.raises(type(error)), breaker.guard():
        raise error


def working(breaker: Breaker) -> None:
    with breaker.guard():
        pass


def opened(clock: ManualClock) -> Breaker:
    breaker = Breaker("llama", clock)
    for _ in range(THRESHOLD):
        failing(breaker)
    return breaker


# --- alone


def test_failures_in_a_row_open_it_and_calls_fail_at_once() -> None:
    clock = ManualClock()
    breaker = Breaker("llama", clock)
    for _ in range(THRESHOLD - 1):
        failing(breaker)
    working(breaker)
    for _ in range(THRESHOLD):
        assert breaker.closed
        failing(breaker)
    with pytest.raises(CircuitOpen, match="No connection") as caught, breaker.guard():
        raise AssertionError("the call is not made")
    assert caught.value.retry_after == FIRST_PAUSE
    assert (breaker.circuit.state, breaker.circuit.since) == ("open", clock.time)


def test_after_the_pause_one_call_tries_and_its_success_closes_it() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.time += FIRST_PAUSE
    assert breaker.circuit.state == "half_open"
    with breaker.guard(), pytest.raises(CircuitOpen), breaker.guard():
        raise AssertionError("one is enough")
    assert breaker.closed
    failing(breaker)
    assert breaker.closed


def test_its_failure_opens_it_for_twice_as_long_up_to_a_minute() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    pauses = []
    for _ in range(6):
        clock.time += breaker.circuit.retry_after
        failing(breaker)
        pauses.append(breaker.circuit.retry_after)
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert pauses[-1] == LONGEST_PAUSE
    assert breaker.circuit.since == 1000.0


def test_a_success_that_shows_little_leaves_one_failure_to_open_it_again() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.time += FIRST_PAUSE
    with breaker.guard(conclusive=False):
        pass
    assert breaker.closed
    failing(breaker)
    assert not breaker.closed


def test_a_refusal_is_an_answer_and_what_others_fail_with_is_not_counted() -> None:
    clock = ManualClock()
    breaker = Breaker("llama", clock)
    for _ in range(THRESHOLD):
        failing(breaker)
        failing(breaker, FoundryRefused("Content filter."))
    for _ in range(2 * THRESHOLD):
        failing(breaker, StorageUnavailable("Storage is down."))
        failing(breaker, FoundryUnavailable("A step is running.", sent=False, code=BUSY))
    assert breaker.closed


def test_a_probe_that_is_given_up_lets_the_next_one_try() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    clock.time += FIRST_PAUSE
    failing(breaker, StorageUnavailable("Storage is down."))
    working(breaker)
    assert breaker.closed


# --- an hour


def test_an_open_circuit_refuses_new_messages_and_knows_the_old_ones() -> None:
    async def scenario(world: World) -> None:
        await world.tell("hello")
        world.foundry.down = True
        await world.tell("first")
        asked = world.foundry.asked
        message = world.message("second")
        with pytest.raises(CircuitOpen) as caught:
            await world.kernel.accept(KEY, message, "f", fresh=False, deployment=DEPLOYMENT)
        assert caught.value.retry_after is not None
        assert await world.store.operation(message.operation_id) is None
        known = world.accepted[0][1]
        operation, new = await world.kernel.accept(KEY, known, "hello", fresh=False, deployment=DEPLOYMENT)
        assert (operation.status, new) == ("completed", False)
        assert world.foundry.asked == asked
        world.foundry.down = False
        await asyncio.sleep(FIRST_PAUSE)
        await world.kernel.accept(KEY, message, "f", fresh=False, deployment=DEPLOYMENT)

    run(scenario)


@pytest.mark.parametrize("turn", [600.0, 2 * HOUR])
def test_messages_that_come_during_a_dead_hour_wait_and_are_answered(turn: float) -> None:
    """As bus messages do: one that cannot be accepted comes again later."""

    async def scenario(world: World) -> None:
        world.foundry.down = True
        keys = [ConversationKey("ceo", f"c{number}") for number in range(10)]
        messages: list[tuple[ConversationKey, Message]] = []
        for number in range(100):
            key, message = keys[number % 10], world.message(f"m{number}", reply=True)
            messages.append((key, message))
            world.accepted.append((key, message))

            async def receive(kernel: Kernel, key: ConversationKey = key, message: Message = message) -> None:
                now = world.now
                fresh = Message(message.operation_id, message.text, now, now + turn, reply_to=message.reply_to)
                await kernel.accept(key, fresh, message.text, fresh=False, deployment=DEPLOYMENT)
                await kernel.drive(key)

            world.deliver(receive)
            await asyncio.sleep(HOUR / 100)
        assert world.foundry.asked < 150
        world.foundry.down = False
        finals = [await world.finished(await accepted(world, message)) for _, message in messages]
        # Only what was accepted before the circuit opened could run out of time.
        statuses = [final.status for final in finals]
        assert statuses == [("failed" if turn < HOUR else "completed"), *["completed"] * 99]
        assert set(world.bus.replies) == {message.operation_id for _, message in messages}
        assert set(world.foundry.steps.values()) == {1}

    run(scenario, KernelOptions(turn=turn))


def test_messages_accepted_before_a_dead_hour_wait_in_one_chain_per_conversation() -> None:
    async def scenario(world: World) -> None:
        wakes: defaultdict[ConversationKey, list[tuple[float, float]]] = defaultdict(list)
        wake = world.bus.wake

        async def noted(key: ConversationKey, delay: float) -> None:
            wakes[key].append((world.now, delay))
            await wake(key, delay)

        world.bus.wake = noted  # type: ignore[method-assign]
        keys = [ConversationKey("ceo", f"c{number}") for number in range(10)]
        operations = [await world.accept(f"m{number}", key=keys[number % 10], reply=True) for number in range(100)]
        world.foundry.down = True
        await asyncio.gather(*(world.kernel.drive(key) for key in keys))
        for _ in range(120):
            await asyncio.sleep(30.0)
            await world.kernel.sweep()
        assert world.foundry.asked < 200
        for chain in wakes.values():
            assert len(chain) < 40
            for (at, delay), (then, _) in itertools.pairwise(chain):
                assert then >= at + delay - WAKE_SLACK, "two chains of one conversation"
        world.foundry.down = False
        finals = [await world.finished(operation) for operation in operations]
        assert {final.status for final in finals} == {"completed"}
        for key in keys:
            remote = world.foundry.remotes[str((await world.store.read(key)).state.remote_id)]
            said = [item.text for item in remote.items if item.kind == "user"]
            assert said == [f"m{number}" for number in range(keys.index(key), 100, 10)]
        assert set(world.foundry.steps.values()) == {1}

    run(scenario, KernelOptions(turn=2 * HOUR))


async def accepted(world: World, message: Message) -> Operation:
    """The operation, once some process accepted the message."""
    for _ in range(100):
        operation = await world.store.operation(message.operation_id)
        if operation is not None:
            return operation
        await asyncio.sleep(5.0)
    raise AssertionError(f"{message.operation_id} was never accepted")
