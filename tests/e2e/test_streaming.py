"""Events of a turn as a client of the whole system sees them."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from tests.e2e.harness import ROOT, World
from tests.functions_worker import FunctionsWorker

QUESTION = "How did revenue and operating profit in Q3 2025 change against the previous quarter?"
EVENTS = {"Accept": "text/event-stream"}
Event = tuple[str, dict[str, Any]]


def parsed(body: str) -> list[Event]:
    """The events in a body; comments are left out."""
    events: list[Event] = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if not block.startswith(":"):
            name, data = block.split("\n")
            events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def said(events: list[Event]) -> str:
    return "".join(data["text"] for name, data in events if name == "delta")


def in_order(events: list[Event]) -> None:
    """A turn that called tools, told as it should be."""
    names = [name for name, _ in events]
    assert names[0] == "operation"
    assert names[-1] == "completed"
    assert names.count("tool_call") == names.count("tool_result") > 0
    assert names.index("operation") < names.index("tool_call") < names.index("waiting") < names.index("tool_result")
    end = events[-1][1]
    assert [data for name, data in events if name == "tool_result"] == end["tool_calls"]
    assert {data["operation_id"] for name, data in events if "operation_id" in data} == {end["operation_id"]}


async def test_a_turn_with_a_real_tool(aos: World) -> None:
    headers = {**EVENTS, "Idempotency-Key": uuid.uuid4().hex}
    answer = await aos.app.http.post("agents/ceo", json={"message": QUESTION}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    events = parsed(answer.text)
    in_order(events)
    assert said(events) == events[-1][1]["reply"]
    assert events[-2][0] == "delta"
    operation = await aos.app.http.get(f"operations/{events[0][1]['operation_id']}")
    assert operation.json() == events[-1][1]
    again = await aos.app.http.post("agents/ceo", json={"message": QUESTION}, headers=headers)
    assert parsed(again.text) == [("operation", events[-1][1]), ("completed", events[-1][1])]


async def test_a_turn_that_another_process_drives(aos: World) -> None:
    """`Prefer: respond-async` leaves the turn to whoever gets the wake-up; a second request follows it."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = await aos.app.http.post(
        "agents/ceo", json={"message": QUESTION}, headers={**key, "Prefer": "respond-async"}
    )
    assert first.status_code == 202
    events = parsed((await aos.app.http.post("agents/ceo", json={"message": QUESTION}, headers={**key, **EVENTS})).text)
    assert (events[0][0], events[-1][0]) == ("operation", "completed")
    assert events[-1][1]["operation_id"] == first.json()["operation_id"]


async def test_many_readers_at_once(aos: World) -> None:
    async def read(number: int) -> None:
        answer = await aos.app.http.post("agents/cfo", json={"message": f"@say this is {number}"}, headers=EVENTS)
        events = parsed(answer.text)
        assert events[-1][1]["reply"] == f"this is {number}"
        assert said(events) == f"this is {number}"

    await asyncio.gather(*map(read, range(20)))


async def test_on_functions_the_events_come_in_one_body(aos: World) -> None:
    environ = {**aos.stack.environment, "AOS_ROLES": "agents"}
    async with FunctionsWorker(ROOT, environ=environ) as worker:

        async def ask(message: str) -> tuple[int, dict[str, str], bytes]:
            body = json.dumps({"message": message, "timeout_seconds": 60}).encode()
            url, agent = "http://localhost/api/agents/ceo", {"agent_id": "ceo"}
            return await worker.invoke_http("ask", "POST", url, headers=EVENTS, body=body, route_params=agent)

        status, headers, body = await ask(QUESTION)
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        # The app beside it takes tool results too, and may say the rest: its text is not heard here.
        in_order(parsed(body.decode()))
        _, _, body = await ask("@say this is all")
        events = parsed(body.decode())
        assert (said(events), events[-1][1]["reply"]) == ("this is all", "this is all")
        status, headers, refused = await ask("")
        assert (status, headers["content-type"]) == (422, "application/problem+json")
        assert json.loads(refused)["code"] == "invalid_body"
