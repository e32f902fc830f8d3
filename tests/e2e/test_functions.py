"""`function_app.py` under the code that runs it in Azure: indexed, and its HTTP and bus functions invoked."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from tests.e2e.harness import REPLIES, ROOT, World
from tests.functions_worker import FunctionsWorker


async def test_every_route_is_indexed(aos: World) -> None:
    async with FunctionsWorker(ROOT, environ=aos.stack.environment) as worker:
        triggers = {name: function.trigger for name, function in worker.functions.items()}
    assert {name for name, trigger in triggers.items() if trigger["type"] == "httpTrigger"} == {
        "health",
        "mcp_servers",
        "mcp_server_status",
        "agent_list",
        "agent",
        "agent_status",
        "ask",
        "operation",
        "command_agent",
        "reload_registry",
        "cancel",
        "conversation",
        "delete_conversation",
        "begin_workflow",
        "workflow",
        "cancel_workflow",
        "query",
        "approvals",
        "decide",
        "openapi",
    }
    bus = {
        (trigger.get("topicName") or trigger.get("queueName"), trigger.get("subscriptionName"))
        for trigger in triggers.values()
        if trigger["type"] == "serviceBusTrigger"
    }
    assert bus == {
        ("agent-events", "realm-agents"),
        ("mcp-responses", "realm-agents"),
        ("agent-commands", None),
        ("aos-requests", None),
        ("mcp-requests", "mcp-servers"),
        ("mcp-server-commands", None),
    }
    assert all(
        trigger["connection"] == "AZURE_SERVICE_BUS_CONNECTION_STRING"
        for trigger in triggers.values()
        if trigger["type"] == "serviceBusTrigger"
    )
    assert {name for name, trigger in triggers.items() if trigger["type"] == "timerTrigger"} == {
        "sweep",
        "reconcile",
        "schedules",
        "purge",
    }


async def test_roles_choose_the_functions(aos: World) -> None:
    async with FunctionsWorker(ROOT, environ={**aos.stack.environment, "AOS_ROLES": "mcp"}) as worker:
        assert set(worker.functions) == {
            "health",
            "mcp_servers",
            "mcp_server_status",
            "on_mcp_request",
            "on_mcp_command",
            "openapi",
            "warmup",
        }


async def test_an_answer_over_http_and_one_over_the_bus(aos: World) -> None:
    environ = {**aos.stack.environment, "AOS_ROLES": "agents"}
    async with FunctionsWorker(ROOT, environ=environ) as worker:
        body = json.dumps({"message": "What was our revenue in Q3 2025?", "timeout_seconds": 60}).encode()
        status, _, answer = await worker.invoke_http(
            "ask", "POST", "http://localhost/api/agents/ceo", body=body, route_params={"agent_id": "ceo"}
        )
        told = json.loads(answer)
        assert (status, told["status"]) == (200, "completed")
        assert told["tool_calls"][0]["status"] == "succeeded"
        status, headers, refused = await worker.invoke_http(
            "ask", "POST", "http://localhost/api/agents/ceo", body=b"{", route_params={"agent_id": "ceo"}
        )
        assert (status, headers["content-type"]) == (400, "application/problem+json")
        assert json.loads(refused)["code"] == "invalid_json"
        _, _, health = await worker.invoke_http("health", "GET", "http://localhost/api/health")
        assert json.loads(health)["active_agents"] == 5
        event = {"agent_id": "ceo", "event_type": "Asked", "payload": {"message": "@say over the bus"}}
        message_id = uuid.uuid4().hex
        await worker.invoke_service_bus(
            "on_agent_event", json.dumps(event).encode(), {"MessageId": message_id, "ReplyTo": REPLIES}
        )
        assert json.loads(str(await aos.client.receive()))["response"] == "over the bus"
        header = {
            "message_id": message_id,
            "timestamp": datetime.now(UTC).isoformat(),
            "source": "businessinfinity",
            "message_type": "aos.agent.query",
        }
        request = {"header": header, "payload": {"agent_id": "ceo", "message": "@say in an envelope"}}
        await worker.invoke_service_bus("on_aos_request", json.dumps(request).encode(), {"MessageId": message_id})
        answered = json.loads(str(await aos.client.receive()))
        assert answered["header"]["message_type"] == "aos.agent.response"
        assert answered["payload"]["response"] == "in an envelope"
        where = {"agent_id": "ceo", "conversation_id": answered["payload"]["conversation_id"]}
        path = "http://localhost/api/agents/ceo/conversations/" + where["conversation_id"]
        _, _, shown = await worker.invoke_http("conversation", "GET", path, route_params=where)
        assert [item["reply"] for item in json.loads(shown)["items"]] == ["in an envelope"]
        status, _, _ = await worker.invoke_http("delete_conversation", "DELETE", path, route_params=where)
        assert status == 204
        for timer in ("sweep", "schedules", "purge"):
            await worker.invoke_timer(timer)
