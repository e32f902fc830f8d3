"""Histories of conversations over HTTP, and agents that act by themselves."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from tests.e2e.harness import ROOT, World
from tests.functions_worker import FunctionsWorker


async def test_a_conversation_is_shown_and_forgotten(aos: World) -> None:
    first = await aos.app.ask("ceo", "What was our revenue in Q3 2025?")
    where = f"agents/ceo/conversations/{first['conversation_id']}"
    second = await aos.app.ask("ceo", "@say and that is all", conversation_id=first["conversation_id"])
    shown = (await aos.app.http.get(where)).json()
    assert (shown["conversation_id"], shown["turns"], shown["next"]) == (first["conversation_id"], 2, None)
    assert [item["message"] for item in shown["items"]] == [
        "What was our revenue in Q3 2025?",
        "@say and that is all",
    ]
    told = shown["items"][0]
    assert (told["operation_id"], told["reply"]) == (first["operation_id"], first["reply"])
    assert (told["tool_calls"][0]["status"], told["usage"]["total_tokens"] > 0) == ("succeeded", True)
    rest = (await aos.app.http.get(where, params={"after": "9" * 18})).json()
    assert rest["items"] == []

    for _ in range(2):
        assert (await aos.app.http.delete(where)).status_code == 204
    gone = await aos.app.http.get(where)
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_conversation")
    left = (await aos.app.http.get(f"operations/{second['operation_id']}")).json()
    assert (left["status"], left["reply"]) == ("completed", None)
    assert (await aos.app.http.get(where, params={"after": "x"})).status_code == 400


async def test_a_conversation_in_work_is_not_forgotten(aos: World) -> None:
    asked = {"message": "@say busy", "conversation_id": "busy", "timeout_seconds": 0}
    await aos.app.http.post("agents/ceo/commands", json={"command": "stop"})
    try:
        event = {"agent_id": "ceo", "event_type": "Asked", "payload": asked, "conversation_id": "busy"}
        await aos.client.send("agent-events", event, message_id="busy-1")
        await aos.app.until("agents/ceo/conversations/busy", lambda body: bool(body.get("items")))
        refused = await aos.app.http.delete("agents/ceo/conversations/busy")
        assert (refused.status_code, refused.json()["code"]) == (409, "conversation_busy")
    finally:
        await aos.app.http.post("agents/ceo/commands", json={"command": "start"})
    await aos.app.until("agents/ceo/conversations/busy", lambda body: body["items"][0]["status"] == "completed")
    assert (await aos.app.http.delete("agents/ceo/conversations/busy")).status_code == 204


async def test_a_perpetual_agent_acts_by_itself_once_per_tick(aos: World) -> None:
    tick = datetime.now(UTC).replace(second=0, microsecond=0)
    daily = {"cron": f"0 {tick.minute} {tick.hour} * * *", "payload": {"message": "@say briefed"}}
    agents = json.loads((ROOT / "agent_registry.json").read_text())
    watch = {
        "agent_id": "watch",
        "purpose": "Looks at the day",
        "agent_type": "perpetual",
        "domain_knowledge": {"domain": "ceo"},
        "metadata": {"schedule": [daily]},
    }
    await aos.put_registry("agent_registry.json", json.dumps({"agents": [*agents["agents"], watch]}).encode())
    try:
        await aos.app.ready("watch")
        # The timer of another host; that of the app itself may tick meanwhile.
        async with FunctionsWorker(ROOT, environ={**aos.stack.environment, "AOS_ROLES": "agents"}) as worker:
            for _ in range(3):
                await worker.invoke_timer("schedules")
            shown = await aos.app.until(
                "agents/watch/conversations/main",
                lambda body: bool(body.get("items")) and body["items"][0]["status"] == "completed",
            )
            await worker.invoke_timer("schedules")
        await asyncio.sleep(0.3)
        shown = (await aos.app.http.get("agents/watch/conversations/main")).json()
        assert [(item["reply"], item["event_type"]) for item in shown["items"]] == [("briefed", "schedule")]
        status = (await aos.app.http.get("agents/watch/status")).json()
        assert status["next_tick"] == (tick + timedelta(days=1)).isoformat(timespec="milliseconds")
        assert status["last_event_at"] >= tick.isoformat()
    finally:
        await aos.put_registry("agent_registry.json", (ROOT / "agent_registry.json").read_bytes())
        await aos.app.until("agents", lambda body: len(body["agents"]) == 5)
