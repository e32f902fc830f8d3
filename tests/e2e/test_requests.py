"""Queue `aos-requests`, as another application uses it: with the SDK, over the bus."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from tests.e2e.harness import World


async def asked(aos: World, message_type: str, payload: object = None, message_id: str | None = None) -> dict[str, Any]:
    """The envelope that answers a request; the answer goes to `{source}-responses`."""
    message_id = message_id or uuid.uuid4().hex
    header = {
        "message_id": message_id,
        "timestamp": datetime.now(UTC).isoformat(),
        "source": "BusinessInfinity",
        "target": "aos",
        "message_type": message_type,
        "priority": "high",
        "ttl_seconds": 60,
    }
    await aos.client.send("aos-requests", {"header": header, "payload": payload or {}})
    message = await aos.client.receive()
    body: dict[str, Any] = json.loads(str(message))
    assert body["header"]["correlation_id"] == message.correlation_id == message_id
    return body


async def test_an_application_asks_an_agent_and_gets_an_envelope(aos: World) -> None:
    query = {"agent_id": "ceo", "query": "What was our revenue in Q3 2025?"}
    name = uuid.uuid4().hex
    answer = await asked(aos, "aos.agent.query", query, name)
    assert answer["header"]["message_type"] == "aos.agent.response"
    told = answer["payload"]
    assert (told["status"], told["response"]) == ("completed", told["reply"])
    assert told["tool_calls"][0]["status"] == "succeeded"
    assert told["generation"]
    shown = (await aos.app.http.get(f"operations/{told['operation_id']}")).json()
    assert shown == {key: value for key, value in told.items() if key != "response"}
    assert await asked(aos, "aos.agent.query", query, name) == answer, "asked again, it is the stored answer"


async def test_an_application_calls_a_tool_without_an_agent(aos: World) -> None:
    call = {"server_id": "company-ledger", "tool_name": "get_company_overview", "tool_params": {}}
    answer = await asked(aos, "aos.mcp.call", call)
    assert (answer["header"]["message_type"], answer["payload"]["server_id"]) == ("aos.mcp.result", "company-ledger")
    assert answer["payload"]["result"]["content"]
    refused = await asked(aos, "aos.mcp.call", {**call, "tool_name": "get_nothing"})
    assert (refused["header"]["message_type"], refused["payload"]["code"]) == ("aos.error", "unknown_tool")


async def test_what_is_kept_in_shared_storage_and_what_the_system_says_of_itself(aos: World) -> None:
    kept = await asked(aos, "aos.storage.set", {"key": "plans/2026.json", "value": {"goal": 7}})
    assert kept["payload"]["success"], kept
    found = await asked(aos, "aos.storage.get", {"key": "plans/2026.json"})
    assert found["payload"]["data"] == {"goal": 7}
    refused = await asked(aos, "aos.storage.get", {"container": "aos-state", "key": "x"})
    assert refused["payload"]["code"] == "container_not_shared"
    health = await asked(aos, "aos.system.health")
    assert health["payload"]["active_agents"] == 5
    listed = await asked(aos, "aos.agent.list")
    assert "ceo" in {agent["agent_id"] for agent in listed["payload"]["agents"]}
    unknown = await asked(aos, "aos.decision.request")
    assert "aos.system.ping" in unknown["payload"]["supported"]
    assert (await asked(aos, "aos.system.ping", {"n": 1}))["payload"] == {"echo": {"n": 1}}
