"""What must not grow does not; and the benchmark of it does not rot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.growth import Points, agents, conversations, sizes, sizes_of_messages, tools

MOST = 2.0
"""How much dearer a message may be among many: far below a cost that grows."""
ROUNDS = 5
"""Noise of a shared machine falls into some measurements by chance; what grows does so in each."""


async def grows(measured: Callable[[], Awaitable[list[tuple[Points, int, int]]]]) -> list[float]:
    """How much dearer the larger is than the smaller, for each (points, smaller, larger); of the first good round."""
    for _ in range(ROUNDS):
        ratios = [dict(points)[larger] / dict(points)[smaller] for points, smaller, larger in await measured()]
        if max(ratios) < MOST:
            break
    return ratios


def test_the_steps_end_with_the_largest() -> None:
    assert sizes(1) == [1]
    assert sizes(1000) == [1, 10, 100, 1000]
    assert sizes(300) == [1, 10, 100, 300]


async def test_a_message_costs_the_same_among_many_agents() -> None:
    async def measured() -> list[tuple[Points, int, int]]:
        found = await agents(200, turns=100)
        return [(found["a message, us"], 1, 200), (found["start, us per agent"], 100, 200)]

    assert max(await grows(measured)) < MOST


async def test_a_message_costs_the_same_among_many_conversations() -> None:
    async def measured() -> list[tuple[Points, int, int]]:
        return [((await conversations(100))["a message, us"], 1, 100)]

    assert max(await grows(measured)) < MOST


async def test_a_call_costs_the_same_among_many_tools() -> None:
    async def measured() -> list[tuple[Points, int, int]]:
        found = tools(128)
        assert dict(found["agent made ready, us"])[128] > 0
        return [(found["a call checked, us"], 1, 128)]

    assert max(await grows(measured)) < MOST


async def test_larger_messages_are_taken() -> None:
    points = dict((await sizes_of_messages(10_000))["a message in memory, us"])
    assert set(points) == {1000, 10_000}
