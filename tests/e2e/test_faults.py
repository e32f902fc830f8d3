"""Parts that die: what was accepted is answered all the same, and health says what is wrong meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.harness import REPLIES, World, world

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

QUESTION = "What was our revenue in Q3 2025?"


@pytest_asyncio.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A running AOS whose parts may be killed."""
    state: Path = tmp_path_factory.mktemp("faults")
    async with world(state) as running:
        yield running
    # The SDKs leave the sockets of connections that broke to the collector.
    gc.collect()


async def accepted(own: World, message: str) -> str:
    response = await own.app.http.post(
        "agents/ceo", json={"message": message, "timeout_seconds": 0}, headers={"Idempotency-Key": uuid.uuid4().hex}
    )
    assert response.status_code in (200, 202), response.text
    operation_id: str = response.json()["operation_id"]
    return operation_id


async def completed(own: World, operation_id: str, seconds: float = 60.0) -> dict[str, Any]:
    body = await own.app.until(
        f"operations/{operation_id}", lambda body: body.get("status") in ("completed", "failed"), seconds
    )
    assert body["status"] == "completed", body
    return body


def server_pid(own: World) -> int:
    """The process of the MCP server that the app runs."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    table = [line.split(None, 2) for line in listed.stdout.splitlines()]
    family = {own.app.child.pid}
    for pid, parent, *command in table:
        if int(parent) in family:
            family.add(int(pid))
            if "-m examples.company_ledger" in " ".join(command):
                return int(pid)
    raise AssertionError("the MCP server is not running")


async def test_an_mcp_server_that_dies_is_started_again(own: World) -> None:
    os.kill(await asyncio.to_thread(server_pid, own), signal.SIGKILL)
    body = await own.app.ask("ceo", QUESTION)
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
    # What is told of a server is written when its state changed, beside its calls.
    await own.app.until("mcp/servers", lambda body: body["servers"][0].get("restarts", 0) >= 1)


@pytest.mark.slow
async def test_the_app_is_killed_in_the_middle_of_turns(own: World) -> None:
    operations = [await accepted(own, QUESTION) for _ in range(5)]
    await own.app.kill()
    await own.app.restart()
    for operation_id in operations:
        body = await completed(own, operation_id, 150)
        assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]


async def test_events_that_arrive_while_the_app_is_down_wait(own: World) -> None:
    await own.app.stop()
    message_id = uuid.uuid4().hex
    event = {"agent_id": "ceo", "event_type": "Late", "payload": {"message": QUESTION}}
    await own.client.send("agent-events", event, message_id=message_id, reply_to=REPLIES, session_id=message_id)
    await own.app.restart()
    reply = json.loads(str(await own.client.receive()))
    assert (reply["status"], reply["conversation_id"]) == ("completed", message_id)


@pytest.mark.slow
async def test_foundry_down_is_waited_for(own: World) -> None:
    await own.app.ready()
    foundry = own.part("Foundry")
    await foundry.stop()
    operation_id = await accepted(own, QUESTION)
    await own.app.until("health", lambda body: body["checks"]["foundry"]["status"] == "degraded")
    status = (await own.app.http.get(f"operations/{operation_id}")).json()["status"]
    assert status in ("queued", "running")
    await own.app.until("agents/ceo/status", lambda body: body["circuit"]["state"] != "closed")
    refused = await own.app.http.post("agents/ceo", json={"message": QUESTION})
    assert (refused.status_code, refused.json()["code"]) in ((503, "circuit_open"), (503, "foundry_unavailable"))
    assert int(refused.headers["retry-after"]) >= 1
    await foundry.start()
    # The longer Foundry was down, the longer it is left alone: up to a minute.
    body = await completed(own, operation_id, 150)
    assert body["tool_calls"]
    await own.app.until("health", lambda body: body["status"] == "healthy")


@pytest.mark.slow
async def test_storage_down_refuses_and_loses_nothing(own: World) -> None:
    azurite = own.part("Azurite")
    await azurite.stop()
    refused = await own.app.http.post("agents/ceo", json={"message": "x"})
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    event = {"agent_id": "ceo", "event_type": "Stored", "payload": {"message": "@say survived"}}
    await own.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to=REPLIES)
    health = await own.app.until("health", lambda body: body["status"] == "unhealthy")
    assert health["checks"]["storage"]["detail"]
    assert (await own.app.http.get("health")).status_code == 503
    await azurite.start()
    assert json.loads(str(await own.client.receive()))["response"] == "survived"


@pytest.mark.slow
async def test_the_bus_down_keeps_tool_calls_in_the_outbox(own: World) -> None:
    await own.app.ready()
    bus = own.part("Service Bus")
    await bus.stop()
    operation_id = await accepted(own, QUESTION)
    await own.app.until("health", lambda body: body["checks"]["service_bus"]["status"] == "degraded")
    await own.app.until(f"operations/{operation_id}", lambda body: body.get("waiting_on") == "tool")
    await bus.start()
    body = await completed(own, operation_id, 150)
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
