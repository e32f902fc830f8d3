"""Calls that a person has to approve, and operations that are cancelled, over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.e2e.harness import PATIENCE, ROOT, World


@pytest_asyncio.fixture(scope="module")
async def desk(aos: World) -> AsyncIterator[World]:
    """An agent `clerk` whose writing tools need an approval."""
    folder = aos.state / "project"
    servers = json.loads((folder / "mcp_server_registry.json").read_text())
    entry = {
        "server_id": "desk",
        "server_name": "desk",
        "server_type": "stdio",
        "command": "python",
        "args": [str(ROOT / "tests/mcp/servers/workshop.py")],
    }
    more = {**servers, "servers": [*servers["servers"], entry]}
    agents = json.loads((ROOT / "agent_registry.json").read_text())
    clerk = {
        "agent_id": "clerk",
        "purpose": "Writes things down",
        "domain_knowledge": {"domain": "ceo"},
        "mcp_tools": [
            {"server_name": "desk", "tool_name": tool, "configuration": {"approval": "writes"}}
            for tool in ("append", "add")
        ],
    }
    await aos.put_registry("mcp_server_registry.json", json.dumps(more).encode(), "mcp-registry")
    await aos.client.send("mcp-server-commands", {"command": "reload_registry"})
    await aos.put_registry("agent_registry.json", json.dumps({"agents": [*agents["agents"], clerk]}).encode())
    await aos.app.ready("clerk")
    yield aos
    await aos.put_registry("agent_registry.json", (ROOT / "agent_registry.json").read_bytes())
    await aos.put_registry("mcp_server_registry.json", json.dumps(servers).encode(), "mcp-registry")
    await aos.client.send("mcp-server-commands", {"command": "reload_registry"})
    await aos.app.until("agents", lambda body: len(body["agents"]) == 5)


async def parked(desk: World, file: Path, line: str) -> dict[str, Any]:
    """An operation whose call waits, as the approvals list it."""
    arguments = json.dumps({"file": str(file), "line": line})
    accepted = await desk.app.http.post(
        "agents/clerk", json={"message": f"@tool desk_append {arguments}", "timeout_seconds": 0}
    )
    operation_id = accepted.json()["operation_id"]
    operation = await desk.app.until(
        f"operations/{operation_id}", lambda body: body.get("waiting_on") == "approval" or body["status"] == "failed"
    )
    assert operation["status"] == "waiting", operation
    listed = await desk.app.until(
        "approvals", lambda body: any(item["operation_id"] == operation_id for item in body["items"])
    )
    (item,) = [item for item in listed["items"] if item["operation_id"] == operation_id]
    found: dict[str, Any] = item
    return found


async def decide(desk: World, approval_id: str, **body: str) -> tuple[int, dict[str, Any]]:
    answer = await desk.app.http.post(f"approvals/{approval_id}", json=body)
    decoded: dict[str, Any] = answer.json()
    return answer.status_code, decoded


async def ended(desk: World, operation_id: str, seconds: float = PATIENCE) -> dict[str, Any]:
    finals = ("completed", "failed", "cancelled")
    return await desk.app.until(f"operations/{operation_id}", lambda body: body["status"] in finals, seconds)


async def test_a_writing_tool_waits_for_its_approval(desk: World, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    item = await parked(desk, file, "approved")
    assert not file.exists()
    assert json.loads(item["arguments"]) == {"file": str(file), "line": "approved"}
    status, view = await decide(desk, item["approval_id"], decision="approve", reason="fine")
    assert (status, view["state"], view["reason"]) == (200, "approved", "fine")
    operation = await ended(desk, item["operation_id"])
    assert operation["status"] == "completed"
    (call,) = operation["tool_calls"]
    assert (call["status"], call["approval"]["state"], call["approval"]["reason"]) == ("succeeded", "approved", "fine")
    assert call["approval"]["decided_by"]
    assert file.read_text() == "approved\n"
    assert (await decide(desk, item["approval_id"], decision="approve"))[0] == 200
    status, problem = await decide(desk, item["approval_id"], decision="reject")
    assert (status, problem["code"]) == (409, "approval_settled")
    decided = (await desk.app.http.get("approvals", params={"state": "decided"})).json()["items"]
    assert item["approval_id"] in [known["approval_id"] for known in decided]


async def test_a_rejected_call_is_not_made(desk: World, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    item = await parked(desk, file, "rejected")
    await decide(desk, item["approval_id"], decision="reject", reason="not today")
    operation = await ended(desk, item["operation_id"])
    assert operation["tool_calls"][0]["status"] == "rejected"
    assert "not today" in operation["reply"]
    assert not file.exists()


async def test_a_reading_tool_needs_none(desk: World) -> None:
    body = await desk.app.ask("clerk", '@tool desk_add {"a": 2, "b": 3}')
    assert body["tool_calls"][0]["status"] == "succeeded"
    assert "approval" not in body["tool_calls"][0]


async def test_what_is_parked_survives_the_process(desk: World, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    item = await parked(desk, file, "later")
    await desk.app.kill()
    await desk.app.restart()
    assert (await decide(desk, item["approval_id"], decision="approve"))[0] in (200, 202)
    # The process may have died over the conversation: then its lease has to end.
    assert (await ended(desk, item["operation_id"], 100))["status"] == "completed"
    assert file.read_text() == "later\n"


async def test_a_cancelled_operation_stays_so_and_its_conversation_goes_on(desk: World, tmp_path: Path) -> None:
    item = await parked(desk, tmp_path / "lines", "never")
    path = f"operations/{item['operation_id']}"
    for _ in range(2):
        answer = await desk.app.http.delete(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["tool_calls"][0]["approval"]["state"] == "withdrawn"
    body = await desk.app.ask("clerk", "@say next", conversation_id=item["conversation_id"])
    assert (body["status"], body["reply"]) == ("completed", "next")
    answer = await desk.app.http.delete(f"operations/{body['operation_id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "operation_final")
    assert (await desk.app.http.delete("operations/op_none")).status_code == 404


async def test_wrong_decisions_are_refused(desk: World) -> None:
    assert (await decide(desk, "op_none.1.0", decision="approve"))[0] == 404
    status, problem = await decide(desk, "op_none.1.0", decision="maybe")
    assert (status, problem["errors"][0]["pointer"]) == (422, "/decision")
    assert (await desk.app.http.get("approvals", params={"state": "all"})).status_code == 400
