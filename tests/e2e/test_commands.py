"""Commands of operators, in a running system."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid

from tests.e2e.harness import REPLIES, ROOT, World


async def test_a_stopped_agent_is_409_until_it_is_started_and_then_answers_what_waited(aos: World) -> None:
    stopped = await aos.app.http.post("agents/cmo/commands", json={"command": "stop"})
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    response = await aos.app.http.post("agents/cmo", json={"message": "@say x"})
    assert (response.status_code, response.json()["code"]) == (409, "agent_stopped")
    event = {"agent_id": "cmo", "event_type": "x", "payload": {"message": "@say late"}}
    await aos.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to=REPLIES)
    await aos.client.nothing()
    await aos.client.handled("agent-events", "realm-agents")
    await aos.app.kill()
    await aos.app.restart()
    status = await aos.app.until("agents/cmo/status", lambda body: body.get("status") == "stopped")
    assert not status["is_running"]
    await aos.client.send("agent-commands", {"command": "start", "agent_id": "cmo"})
    assert json.loads(str(await aos.client.receive()))["response"] == "late"
    await aos.app.ready("cmo")


async def test_a_reload_says_what_changed(aos: World) -> None:
    before = (await aos.app.http.get("agents/ceo/status")).json()["generation"]
    registry = json.loads((ROOT / "agent_registry.json").read_text())
    registry["agents"][0]["purpose"] = f"Strategy {uuid.uuid4().hex}"
    registry["agents"][1]["enabled"] = False
    await aos.put_registry("agent_registry.json", json.dumps(registry).encode())
    after = await aos.app.until("agents/ceo/status", lambda body: body.get("generation") not in (None, before))
    await aos.app.ready()
    assert (await aos.app.ask("ceo", "@say x"))["generation"] == after["generation"]
    await aos.put_registry("agent_registry.json", (ROOT / "agent_registry.json").read_bytes())
    again = await aos.app.http.post("registry/reload")
    assert again.status_code == 200
    assert again.json()["removed"] == []
    status = await aos.app.until("agents/ceo/status", lambda body: body.get("generation") != after["generation"])
    assert status["generation"] == again.json()["generation"]


async def test_a_command_that_is_none_is_refused(aos: World) -> None:
    response = await aos.app.http.post("agents/cmo/commands", json={"command": "dance"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/command"
    unknown = await aos.app.http.post("agents/nobody/commands", json={"command": "stop"})
    assert unknown.status_code == 404


async def test_a_failed_turn_is_parked_and_replayed_from_the_command_line(aos: World) -> None:
    event = {"agent_id": "ceo", "event_type": "x", "payload": {"message": "@fail content_filter"}}
    message_id = uuid.uuid4().hex
    await aos.client.send("agent-events", event, message_id=message_id, reply_to=REPLIES)
    failed = json.loads(str(await aos.client.receive()))
    operation = f"operations/{failed['operation_id']}"
    assert (await aos.app.http.get(operation)).json()["parked"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aos", "dead-letters", "replay", "--reason", "ContentFilter"),
        env={**os.environ, **aos.stack.environment, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert f"{message_id}: attempt 2 sent to agent-events" in output.decode()
    again = await aos.client.receive()
    assert again.message_id == f"{failed['operation_id']}.2.reply"
    assert (await aos.app.http.get(operation)).json()["attempt"] == 2
    await aos.client.receive("aos-poison")


async def test_what_an_agent_did_is_still_known_after_a_crash(aos: World) -> None:
    before = (await aos.app.http.get("agents/coo")).json()["counters"]
    answer = await aos.app.ask("coo", "@say x")
    # Counted when the answer is out.
    shown = await aos.app.until("agents/coo", lambda agent: bool(agent["counters"] != before))
    counted = shown["counters"]
    assert counted["turns"] == before["turns"] + 1
    assert counted["total_tokens"] == before["total_tokens"] + answer["usage"]["total_tokens"]
    await aos.app.kill()
    await aos.app.restart()
    await aos.app.ready("coo")
    assert (await aos.app.http.get("agents/coo/status")).json()["counters"] == counted
