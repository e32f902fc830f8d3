"""Circuits that one process opened, as the others see them."""

from __future__ import annotations

import asyncio

import pytest

from aos.errors import CircuitOpen
from aos.kernel.breaker import FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, Breaker, Trip
from aos.kernel.kernel import Kernel
from aos.kernel.trips import NEWS
from aos.kernel.types import ConversationKey
from tests.kernel.neighbours import Board
from tests.kernel.test_breaker import ManualClock, opened, working
from tests.kernel.world import World, run

NAME = "Deployment llama"


async def accept(kernel: Kernel, world: World, number: int) -> ConversationKey:
    key = ConversationKey("ceo", f"c{number}")
    message = world.message(f"message {number}")
    world.accepted.append((key, message))
    await kernel.accept(key, message, message.text, fresh=False, deployment="llama")
    return key


def test_a_circuit_that_one_process_opened_is_open_in_the_others_within_seconds() -> None:
    board = Board()

    async def scenario(world: World) -> None:
        first, second = world.process, world.start()
        await accept(second.kernel, world, 0)
        world.foundry.down = True
        for number in range(1, 1 + THRESHOLD):
            await first.kernel.drive(await accept(first.kernel, world, number))
        assert first.kernel.breakers.of("llama").circuit.state == "open"
        await world.settle()
        assert board.trips[NAME].since is not None
        await asyncio.sleep(NEWS)
        second.kernel.look_around()
        await world.settle()
        asked = world.foundry.asked
        assert second.kernel.breakers.of("llama").circuit.state == "open"
        with pytest.raises(CircuitOpen) as refused:
            await accept(second.kernel, world, 9)
        assert 0 < (refused.value.retry_after or 0.0) <= FIRST_PAUSE * 2
        assert world.foundry.asked == asked, "it was not asked by this process"
        # One of them finds that it works again, and says so.
        world.foundry.down = False
        for number in range(1 + THRESHOLD):
            await world.finished(await first.kernel.operation(f"op{number}"))
        await asyncio.sleep(NEWS)
        assert board.trips[NAME].since is None
        for process in (first, second):
            process.kernel.look_around()
            await world.settle()
            assert process.kernel.breakers.of("llama").closed

    run(scenario, board=board)


def test_what_a_process_knows_better_is_not_overruled() -> None:
    clock = ManualClock()
    breaker = opened(clock)
    older = Trip(NAME, clock.time - 1.0)
    breaker.hear(older)
    assert not breaker.closed
    clock.time += FIRST_PAUSE
    working(breaker)
    breaker.hear(Trip(NAME, clock.time - 1.0, since=900.0, until=clock.time + 60.0, failures=THRESHOLD))
    assert breaker.closed
    breaker.hear(
        Trip(NAME, clock.time + 1.0, since=900.0, until=clock.time + 60.0, failures=7, reason="No connection.")
    )
    assert (breaker.circuit.state, breaker.circuit.failures, breaker.circuit.reason) == ("open", 7, "No connection.")


def test_news_of_long_ago_count_no_more() -> None:
    clock = ManualClock()
    breaker = Breaker("llama", clock)
    clock.time = 10_000.0
    breaker.hear(Trip(NAME, 1.0, since=1.0, until=clock.time - LONGEST_PAUSE - 1.0))
    assert breaker.closed


def test_it_tells_what_it_found_out_and_nothing_of_what_it_heard() -> None:
    clock = ManualClock()
    told: list[Trip] = []
    breaker = Breaker("llama", clock, told=told.append)
    working(breaker)
    breaker.hear(Trip("llama", clock.time, since=clock.time, until=clock.time + 5.0, pause=5.0, failures=THRESHOLD))
    assert told == []
    clock.time += 5.0
    working(breaker)
    assert [trip.since for trip in told] == [None]
