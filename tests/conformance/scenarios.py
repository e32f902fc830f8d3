"""What callers do with AOS, request by request; each scenario says which routes it shows answering with what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.sides import ADMIN_KEY, CEO_KEY, FULL_KEYS, Side

Shown = tuple[str, int]
Play = Callable[[Side], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """Requests of one caller, one after the other, and the (route, status) pairs that come of them."""

    play: Play
    shows: frozenset[Shown]


SCENARIOS: list[Scenario] = []

BACKLOG = 8
"""Operations of one agent that may be unfinished; more than the other scenarios have at once."""

BOOKING = json.dumps({"account": "6500", "amount": 1, "description": "A taxi"})
TO_APPROVE = f"@tool company-ledger_record_transaction {BOOKING}"


def shows(*pairs: Shown) -> Callable[[Play], Play]:
    """Registers a scenario."""

    def register(play: Play) -> Play:
        SCENARIOS.append(Scenario(play, frozenset(pairs)))
        return play

    return register


@shows(("health", 200), ("openapi", 200), ("mcp_servers", 200), ("mcp_server_status", 200), ("mcp_server_status", 404))
async def the_system(side: Side) -> None:
    await side.until("health", "GET health", lambda body: body.get("status") == "healthy")
    # How many tools a server listed is told a moment after agents can use them.
    await side.until("mcp_servers", "GET mcp/servers", listed)
    await side.send("health", "GET health", key=None)
    for coding in ("identity", "gzip"):
        await side.send("openapi", "GET openapi.json", key=None, accept_encoding=coding)
    await side.send("mcp_servers", "GET mcp/servers")
    await side.send("mcp_server_status", "GET mcp/servers/company-ledger/status")
    await side.send("mcp_server_status", "GET mcp/servers/nothing/status")


@shows(("agent_list", 200), ("agent", 200), ("agent", 404), ("agent_status", 200), ("agent_status", 404))
async def the_agents(side: Side) -> None:
    await side.send("agent_list", "GET agents")
    await side.send("agent_list", "GET agents", key=CEO_KEY)
    for agent_id in ("ceo", "off", "nobody"):
        await side.send("agent", f"GET agents/{agent_id}")
        await side.send("agent_status", f"GET agents/{agent_id}/status")


@shows(("ask", 200), *(("ask", status) for status in (202, 400, 404, 409)), ("operation", 200), ("operation", 404))
async def a_message(side: Side) -> None:
    key = {"idempotency_key": side.name("asked")}
    body = {"message": "@say hello", "conversation_id": side.name("talk"), "timeout_seconds": 60}
    first = await side.send("ask", "POST agents/cfo", body, **key)
    assert first.json["reply"] == "hello"
    again = await side.send("ask", "POST agents/cfo", body, **key)
    assert again.json == first.json
    await side.send("ask", "POST agents/cfo", {**body, "message": "@say something else"}, **key)
    later = await side.send("ask", "POST agents/cfo", {"message": "@say later"}, prefer="respond-async")
    where = f"GET operations/{later.json['operation_id']}"
    assert later.headers["location"] == f"/api/{where.removeprefix('GET ')}"
    await side.until("operation", where, lambda body: body.get("status") == "completed")
    await side.send("operation", where)
    await side.send("operation", "GET operations/op_nothing")
    await side.send("ask", "POST agents/nobody", {"message": "x"})
    await side.send("ask", "POST agents/off", {"message": "x"})
    await side.send("ask", "POST agents/cfo", {"message": "x"}, idempotency_key="a b")
    failed = await side.send("ask", "POST agents/cfo", {"message": "@fail content_filter"})
    assert failed.json["status"] == "failed"


@shows(("ask", 200))
async def a_message_with_events(side: Side) -> None:
    key = {"idempotency_key": side.name("streamed"), "accept": "text/event-stream"}
    for _ in range(2):
        answer = await side.send("ask", "POST agents/cto", {"message": "@say bit by bit"}, **key)
        assert answer.headers["content-type"] == "text/event-stream"


@shows(("query", 200), ("query", 202), ("query", 404), ("query", 409))
async def a_message_that_names_no_agent(side: Side) -> None:
    said = '@say {"agent_id": "cfo", "reason": "It is about money."}'
    key = {"idempotency_key": side.name("routed")}
    first = await side.send("query", "POST query", {"message": said}, **key)
    assert first.json["routed_to"] == "cfo"
    await side.send("query", "POST query", {"message": said}, **key)
    await side.send("query", "POST query", {"message": f"{said} else"}, **key)
    later = await side.send("query", "POST query", {"message": said}, prefer="respond-async")
    assert later.status == 202
    await side.send("query", "POST query", {"message": "@say I do not know"})
    await side.send("query", "POST query", {"message": said}, accept="text/event-stream", **key)


@shows(("conversation", 200), ("conversation", 400), ("conversation", 404), ("delete_conversation", 204))
async def a_history(side: Side) -> None:
    where = f"agents/coo/conversations/{side.name('story')}"
    for number in range(2):
        body = {"message": f"@say {number}", "conversation_id": side.name("story")}
        assert (await side.look("ask", "POST agents/coo", body)).status == 200
    page = await side.send("conversation", f"GET {where}")
    assert [item["reply"] for item in page.json["items"]] == ["0", "1"]
    await side.send("conversation", f"GET {where}?after=x")
    for _ in range(2):
        await side.send("delete_conversation", f"DELETE {where}")
    await side.send("conversation", f"GET {where}")


def listed(body: dict[str, Any]) -> bool:
    """Whether each server has told of its tools."""
    return bool(body.get("servers")) and all(server.get("tools") for server in body["servers"])


async def waiting(side: Side, agent_id: str) -> dict[str, Any]:
    """An operation whose call waits for a person, as it is listed."""
    asked = await side.look("ask", f"POST agents/{agent_id}", {"message": TO_APPROVE, "timeout_seconds": 0})
    operation_id = asked.json["operation_id"]
    await side.until("operation", f"GET operations/{operation_id}", lambda body: body.get("waiting_on") == "approval")
    listed = await side.until(
        "approvals",
        "GET approvals",
        lambda body: any(item["operation_id"] == operation_id for item in body.get("items", ())),
    )
    found: dict[str, Any] = next(item for item in listed["items"] if item["operation_id"] == operation_id)
    return found


@shows(
    *(("approvals", status) for status in (200, 400)),
    *(("decide", status) for status in (200, 404, 409)),
    *(("cancel", status) for status in (200, 404, 409)),
    ("delete_conversation", 409),
)
async def approvals(side: Side) -> None:
    first, second = [await waiting(side, side.name("clerk")) for _ in range(2)]
    busy = f"DELETE agents/{side.name('clerk')}/conversations/{first['conversation_id']}"
    await side.send("delete_conversation", busy)
    await side.send("approvals", "GET approvals?state=all", key=ADMIN_KEY)
    await side.send("decide", "POST approvals/op_none.1.0", {"decision": "approve"}, key=ADMIN_KEY)
    decide = f"POST approvals/{first['approval_id']}"
    await side.send("decide", decide, {"decision": "reject", "reason": "not today"}, key=ADMIN_KEY)
    await side.send("decide", decide, {"decision": "approve"}, key=ADMIN_KEY)
    listed = await side.look("approvals", "GET approvals?state=decided")
    assert first["approval_id"] in [item["approval_id"] for item in listed.json["items"]]
    await side.send("approvals", "GET approvals?after=zzzz", key=ADMIN_KEY)
    for _ in range(2):
        await side.send("cancel", f"DELETE operations/{second['operation_id']}")
    ended = f"GET operations/{first['operation_id']}"
    await side.until("operation", ended, lambda body: body.get("status") == "completed")
    await side.send("cancel", f"DELETE operations/{first['operation_id']}")
    await side.send("cancel", "DELETE operations/op_none")


@shows(*(("begin_workflow", status) for status in (200, 202, 404, 409)), ("workflow", 200), ("workflow", 404))
async def a_workflow(side: Side) -> None:
    steps = [{"id": "a", "agent_id": "cmo", "message": "@say one"}]
    body = {"workflow_id": side.name("flow"), "steps": steps}
    begun = await side.send("begin_workflow", "POST workflows", body)
    where = f"workflows/{begun.json['workflow_id']}"
    assert begun.headers["location"] == f"/api/{where}"
    await side.until("workflow", f"GET {where}", lambda body: body.get("status") == "completed")
    await side.send("workflow", f"GET {where}")
    await side.send("begin_workflow", "POST workflows", body)
    await side.send("begin_workflow", "POST workflows", {**body, "steps": [{**steps[0], "message": "@say two"}]})
    await side.send("begin_workflow", "POST workflows", {"steps": [{**steps[0], "agent_id": "nobody"}]})
    await side.send("workflow", "GET workflows/w-none")


@shows(
    *((route, 403) for route in ("operation", "cancel", "begin_workflow", "workflow", "cancel_workflow")),
)
async def a_stranger(side: Side) -> None:
    asked = await side.look("ask", "POST agents/cmo", {"message": "@say private"})
    steps = [{"id": "a", "agent_id": "cmo", "message": "@say private"}]
    await side.look("begin_workflow", "POST workflows", {"workflow_id": side.name("private"), "steps": steps})
    for method, route in (("GET", "operation"), ("DELETE", "cancel")):
        await side.send(route, f"{method} operations/{asked.json['operation_id']}", key=CEO_KEY)
    await side.send("begin_workflow", "POST workflows", {"steps": steps}, key=CEO_KEY)
    for method, route in (("GET", "workflow"), ("DELETE", "cancel_workflow")):
        await side.send(route, f"{method} workflows/{side.name('private')}", key=CEO_KEY)


@shows(*(("cancel_workflow", status) for status in (200, 404, 409)))
async def a_workflow_that_is_cancelled(side: Side) -> None:
    steps = [{"id": "a", "agent_id": side.name("clerk"), "message": TO_APPROVE}]
    begun = await side.look("begin_workflow", "POST workflows", {"workflow_id": side.name("dropped"), "steps": steps})
    where = f"workflows/{begun.json['workflow_id']}"
    answer = await side.send("cancel_workflow", f"DELETE {where}")
    assert answer.json["status"] == "cancelled"
    ended = {"workflow_id": side.name("ended"), "steps": [{"id": "a", "agent_id": "cmo", "message": "@say one"}]}
    await side.look("begin_workflow", "POST workflows", ended)
    where = f"workflows/{side.name('ended')}"
    await side.until("workflow", f"GET {where}", lambda body: body.get("status") == "completed")
    await side.send("cancel_workflow", f"DELETE {where}")
    await side.send("cancel_workflow", "DELETE workflows/w-none")


@shows(("command_agent", 200), ("command_agent", 404), ("ask", 409), ("reload_registry", 200))
async def commands(side: Side) -> None:
    agent_id = side.name("halted")
    for command in ("stop", "start"):
        await side.send("command_agent", f"POST agents/{agent_id}/commands", {"command": command}, key=ADMIN_KEY)
        if command == "stop":
            await side.send("ask", f"POST agents/{agent_id}", {"message": "x"})
    await side.send("command_agent", "POST agents/nobody/commands", {"command": "stop"}, key=ADMIN_KEY)
    await side.send("reload_registry", "POST registry/reload", key=ADMIN_KEY)


@shows(("ask", 429), ("query", 429), ("begin_workflow", 202))
async def too_much(side: Side) -> None:
    agent_id = side.name("full")
    parked = await asyncio.gather(*(waiting(side, agent_id) for _ in range(BACKLOG)))
    await side.send("ask", f"POST agents/{agent_id}", {"message": "@say one more"})
    # A key that is limited to one agent is routed to that.
    await side.send("query", "POST query", {"message": "@say one more"}, key=FULL_KEYS[side.letter])
    steps = [{"id": "a", "agent_id": agent_id, "message": "@say one more"}]
    await side.send("begin_workflow", "POST workflows", {"workflow_id": side.name("late"), "steps": steps})
    await side.look("cancel_workflow", f"DELETE workflows/{side.name('late')}")
    await asyncio.gather(*(side.look("cancel", f"DELETE operations/{one['operation_id']}") for one in parked))
