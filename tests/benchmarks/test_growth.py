"""What must not grow does not; and the benchmark of it does not rot."""

from __future__ import annotations

from benchmarks.growth import agents, conversations, sizes, sizes_of_messages, tools

MOST = 2.0
"""How much dearer a message may be among many: noise of a shared machine, far below a cost that grows."""


def test_the_steps_end_with_the_largest() -> None:
    assert sizes(1) == [1]
    assert sizes(1000) == [1, 10, 100, 1000]
    assert sizes(300) == [1, 10, 100, 300]


async def test_a_message_costs_the_same_among_many_agents() -> None:
    found = await agents(200)
    message = dict(found["a message, us"])
    assert message[200] < MOST * message[1]
    start = dict(found["start, us per agent"])
    assert start[200] < MOST * start[100]


async def test_a_message_costs_the_same_among_many_conversations() -> None:
    message = dict((await conversations(100))["a message, us"])
    assert message[100] < MOST * message[1]


async def test_a_call_costs_the_same_among_many_tools() -> None:
    found = tools(128)
    call = dict(found["a call checked, us"])
    assert call[128] < MOST * call[1]
    assert dict(found["agent made ready, us"])[128] > 0


async def test_larger_messages_are_taken() -> None:
    points = dict((await sizes_of_messages(10_000))["a message in memory, us"])
    assert set(points) == {1000, 10_000}
