"""The events of a turn, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest

from aos.kernel.kernel import Kernel
from aos.kernel.types import Decision, ToolResult
from aos.sse import PING, EventStream, event, wants_events
from aos.views import operation_view
from tests.kernel.world import KEY, World, run

Event = tuple[str, dict[str, Any]]


def parsed(chunk: bytes) -> Event:
    name, data, *rest = chunk.decode().split("\n")
    assert rest == ["", ""]
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def names(events: list[Event]) -> list[str]:
    return [name for name, _ in events]


def text(events: list[Event]) -> str:
    return "".join(data["text"] for name, data in events if name == "delta")


async def read(stream: EventStream) -> list[Event]:
    events = [parsed(chunk) async for chunk in stream if chunk != PING]
    await stream.aclose()
    return events


async def events(world: World, message: str, *, seconds: float = 200.0) -> list[Event]:
    accepted = await world.accept(message)
    stream = EventStream(world.kernel, accepted, seconds)
    world.kernel.start(accepted)
    return await read(stream)


def test_a_text_turn() -> None:
    async def scenario(world: World) -> None:
        told = await events(world, "hello")
        assert names(told) == ["operation", *["delta"] * 3, "completed"]
        (_, first), (_, last) = told[0], told[-1]
        assert first["status"] == "queued"
        assert last == operation_view(await world.kernel.operation(first["operation_id"]))
        assert text(told) == last["reply"]

    run(scenario)


def test_a_turn_with_tools() -> None:
    async def scenario(world: World) -> None:
        told = await events(world, "2,1: go")
        first_step, second_step = ["tool_call"] * 2, ["tool_call"]
        assert names(told)[: -names(told)[::-1].index("tool_result")] == [
            *("operation", *first_step, "waiting", "tool_result", "tool_result"),
            *(*second_step, "waiting", "tool_result"),
        ]
        assert names(told)[-1] == "completed"
        assert text(told) == told[-1][1]["reply"]
        calls = [data for name, data in told if name == "tool_call"]
        results = [data for name, data in told if name == "tool_result"]
        assert [call["status"] for call in calls] == ["pending"] * 3
        assert results == told[-1][1]["tool_calls"]
        assert [{**call, "status": "succeeded", "duration_ms": 0} for call in calls] == [
            {**result, "duration_ms": 0} for result in results
        ]
        assert all(result["duration_ms"] >= 1000 for result in results)
        assert told[3] == (
            "waiting",
            {
                "operation_id": "op0",
                "status": "waiting",
                "waiting_on": "tool",
                "location": "/api/operations/op0",
            },
        )

    run(scenario)


def test_a_call_that_is_refused_at_once_is_told_with_its_result() -> None:
    async def scenario(world: World) -> None:
        told = await events(world, "1: refused")
        assert [name for name in names(told) if name != "delta"] == [
            *("operation", "tool_call", "tool_result", "completed")
        ]
        assert told[2][1]["status"] == "refused"

    run(scenario)


def test_a_turn_that_fails() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults.append("refuse")
        told = await events(world, "hello")
        assert names(told) == ["operation", "failed"]
        assert told[-1][1]["error"]["code"] == "content_filter"

    run(scenario)


def test_a_turn_that_is_cancelled_while_the_model_speaks() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("hello")
        stream = EventStream(world.kernel, accepted, 200.0)
        world.kernel.start(accepted)
        world.later(0.65, lambda: world.deliver(cancel))
        told = await read(stream)
        assert [name for name in names(told) if name != "delta"] == ["operation", "cancelled"]
        assert "answer to hello: ".startswith(text(told))
        assert told[-1][1]["reply"] is None

    async def cancel(kernel: Kernel) -> None:
        await kernel.cancel("op0", "me")

    run(scenario)


def test_a_turn_that_waits_for_an_approval() -> None:
    async def scenario(world: World) -> None:
        world.later(50.0, lambda: world.deliver(approve))
        told = [told for told in await events(world, "1: approve") if told[0] != "delta"]
        assert names(told) == ["operation", "tool_call", "waiting", "waiting", "tool_result", "completed"]
        assert [data["waiting_on"] for name, data in told if name == "waiting"] == ["approval", "tool"]
        assert [told[number][1]["approval"]["state"] for number in (1, 4)] == ["pending", "approved"]

    async def approve(kernel: Kernel) -> None:
        await kernel.decide(Decision("op0.1.0", approve=True, by="ada", reason="fine"))

    run(scenario)


def test_an_operation_that_ended_is_told_at_once() -> None:
    async def scenario(world: World) -> None:
        ended = await world.finished(await world.tell("1: go"))
        began = world.now
        stream = EventStream(world.kernel, ended, 200.0)
        world.kernel.start(ended)
        view = operation_view(ended)
        assert await read(stream) == [("operation", view), ("completed", view)]
        assert world.now == began

    run(scenario)


def test_what_the_first_event_shows_is_not_told_again() -> None:
    async def scenario(world: World) -> None:
        waiting = await world.tell("1: go")
        assert waiting.status == "waiting"
        told = await read(EventStream(world.kernel, waiting, 200.0))
        assert [name for name in names(told) if name != "delta"] == ["operation", "tool_result", "completed"]

    run(scenario)


def test_two_listeners_are_told_the_same() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("1: go")
        streams = [EventStream(world.kernel, accepted, 200.0) for _ in range(2)]
        world.kernel.start(accepted)
        first, second = await asyncio.gather(*map(read, streams))
        assert first == second
        assert text(first) == first[-1][1]["reply"] != ""
        assert world.foundry.requests == 2

    run(scenario)


def test_a_turn_of_another_process_is_told_without_its_text() -> None:
    async def scenario(world: World) -> None:
        here = world.kernel
        accepted = await world.accept("1: go")
        stream = EventStream(here, accepted, 200.0)
        there = world.start()
        there.do(there.kernel.drive(KEY))
        told = await read(stream)
        assert names(told) == ["operation", "tool_call", "waiting", "tool_result", "completed"]
        assert told[-1][1]["reply"] == "answer to 1: go: <op0.1.0>"

    run(scenario)


def test_the_end_is_told_soon_after_another_process_reached_it() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("hello")
        stream = EventStream(world.kernel, accepted, 200.0)
        there = world.start()
        there.do(there.kernel.drive(KEY))
        assert names(await read(stream))[-1] == "completed"
        ended = (await there.kernel.operation("op0")).updated_at
        assert world.now - ended <= 1.1

    run(scenario)


def test_a_turn_that_takes_longer_than_the_reader_waits() -> None:
    async def scenario(world: World) -> None:
        world.bus.latency = 300.0
        world.agents.time_limit = 400.0
        began = world.now
        told = await events(world, "1: go", seconds=20.0)
        assert world.now - began == pytest.approx(20.0)
        assert names(told) == ["operation", "tool_call", "waiting", "waiting"]
        assert told[-1] == told[-2]
        ended = await world.finished(await world.kernel.operation("op0"))
        assert ended.status == "completed", "the turn went on"

    run(scenario)


def test_a_reader_that_does_not_wait() -> None:
    async def scenario(world: World) -> None:
        began = world.now
        told = await events(world, "hello", seconds=0.0)
        assert names(told) == ["operation", "waiting"]
        assert (told[1][1]["status"], told[1][1]["waiting_on"]) == ("queued", None)
        assert world.now == began
        await world.finished(await world.kernel.operation("op0"))

    run(scenario)


def test_silence_is_broken_every_15_seconds() -> None:
    async def scenario(world: World) -> None:
        world.bus.latency = 100.0
        world.agents.time_limit = 200.0
        accepted = await world.accept("1: go")
        stream = EventStream(world.kernel, accepted, 200.0)
        world.kernel.start(accepted)
        sent = [(world.now, chunk) async for chunk in stream]
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(sent)]
        assert [chunk for _, chunk in sent].count(PING) == 6
        assert max(gaps) <= 15.1
        pings = [at for at, chunk in sent if chunk == PING]
        assert [round(later - earlier) for earlier, later in itertools.pairwise(pings)] == [15] * 5

    run(scenario)


def test_storage_that_is_down_for_a_while_does_not_end_the_stream() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("1: go")
        stream = EventStream(world.kernel, accepted, 200.0)
        world.kernel.start(accepted)
        world.later(1.0, lambda: setattr(world, "storage_down", True))
        world.later(20.0, lambda: setattr(world, "storage_down", False))
        told = await read(stream)
        assert names(told)[-1] == "completed"

    run(scenario)


def test_a_reader_that_leaves_is_forgotten_and_the_turn_goes_on() -> None:
    async def scenario(world: World) -> None:
        tasks = asyncio.all_tasks()
        accepted = await world.accept("hello")
        stream = EventStream(world.kernel, accepted, 200.0)
        world.kernel.start(accepted)
        reading = asyncio.create_task(read(stream))
        await asyncio.sleep(0.65)
        reading.cancel()
        await asyncio.wait({reading})
        await stream.aclose()
        assert (await world.finished(accepted)).status == "completed"
        await world.settle()
        assert asyncio.all_tasks() == tasks, "no task is left"
        assert not world.kernel.progress._channels

    run(scenario)


def test_a_stream_that_is_never_read_is_forgotten_when_it_is_closed() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("hello")
        stream = EventStream(world.kernel, accepted, 200.0)
        await stream.aclose()
        began = world.now
        await world.kernel.drive(KEY)
        assert world.now - began < world.foundry.latency + world.foundry.pace, "its step was not streamed"

    run(scenario)


def test_a_result_that_comes_alone_is_told_alone() -> None:
    async def scenario(world: World) -> None:
        world.bus.tools_answer = False
        accepted = await world.accept("2: go")
        stream = EventStream(world.kernel, accepted, 200.0)
        world.kernel.start(accepted)
        told: list[Event] = []
        async for chunk in stream:
            told.append(parsed(chunk))
            if told[-1][0] == "waiting":
                await world.kernel.add_result("op0", ToolResult("op0.1.1", "second"))
            elif told[-1][0] == "tool_result":
                await world.kernel.add_result("op0", ToolResult("op0.1.0", "first"))
        results = [(data["id"], data["status"]) for name, data in told if name == "tool_result"]
        assert results == [("op0.1.1", "succeeded"), ("op0.1.0", "succeeded")]
        assert names(told).count("waiting") == 1

    run(scenario)


def test_an_event_is_one_line_of_json() -> None:
    chunk = event("delta", {"text": "one\ntwo\r\nthree\u2028four", "number": float("nan")})
    assert chunk.count(b"\n") == 3
    assert b"\r" not in chunk
    assert parsed(chunk) == ("delta", {"text": "one\ntwo\r\nthree\u2028four", "number": None})


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream; charset=utf-8", True),
        ("text/event-stream;q=0.9, */*;q=0.1", True),
        ("application/json, text/event-stream", True),
        ("application/json;q=0.5, text/event-stream", True),
        ("application/json, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.000", False),
        ("text/event-stream;q=much", True),
        ("application/json", False),
        ("*/*", False),
        ("text/*", False),
        ("", False),
        (",;,", False),
    ],
)
def test_who_wants_events_says_so(accept: str, wanted: bool) -> None:
    assert wants_events(accept) is wanted
