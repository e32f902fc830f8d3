"""What callers may get wrong: a clear answer, nothing stored, the rest goes on."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.e2e.harness import REPLIES, ROOT, World


def as_text(value: object) -> str:
    """AMQP strings arrive as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        (b"{not json", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b'["a list"]', 422, "invalid_body", ""),
        (b"{}", 422, "invalid_body", "/message"),
        (b'{"message": ""}', 422, "invalid_body", "/message"),
        (b'{"message": "  "}', 422, "invalid_body", "/message"),
        (b'{"message": 7}', 422, "invalid_body", "/message"),
        (b'{"message": "x", "conversation_id": "a/b"}', 422, "invalid_body", "/conversation_id"),
        (b'{"message": "x", "timeout_seconds": 500}', 422, "invalid_body", "/timeout_seconds"),
        (b'{"message": "x", "colour": "red"}', 422, "invalid_body", "/colour"),
        (b'{"message": "' + b"x" * 2_000_000 + b'"}', 413, "body_too_large", None),
    ],
)
async def test_a_bad_body_is_refused(aos: World, body: bytes, status: int, code: str, pointer: str | None) -> None:
    response = await aos.app.http.post("agents/ceo", content=body, headers={"content-type": "application/json"})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]]


async def test_an_unknown_agent_is_404_and_names_those_there_are(aos: World) -> None:
    response = await aos.app.http.post("agents/nobody", json={"message": "x"})
    assert (response.status_code, response.json()["code"]) == (404, "unknown_agent")
    assert "ceo, cfo, cmo, coo, cto" in response.json()["detail"]


async def test_an_unknown_operation_is_404(aos: World) -> None:
    response = await aos.app.http.get("operations/op_nothing")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_operation")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{not json", "InvalidMessage"),
        (b'"text"', "InvalidMessage"),
        (b'{"event_type": "x"}', "InvalidMessage"),
        (b'{"agent_id": "nobody", "event_type": "x"}', "UnknownAgent"),
    ],
)
async def test_a_message_that_can_never_succeed_is_answered_and_parked(aos: World, body: bytes, reason: str) -> None:
    message_id = uuid.uuid4().hex
    await aos.client.send("agent-events", body, message_id=message_id, reply_to=REPLIES)
    answer = json.loads(str(await aos.client.receive()))
    assert answer["status"] == "failed"
    parked = await aos.client.receive("aos-poison")
    properties = {as_text(name): as_text(value) for name, value in (parked.application_properties or {}).items()}
    assert parked.message_id == message_id
    assert b"".join(parked.body) == body
    assert properties["DeadLetterReason"] == reason
    assert properties["aos-source"] == "agent-events"
    assert properties["DeadLetterErrorDescription"]


async def test_a_reply_to_an_entity_of_aos_is_refused(aos: World) -> None:
    event = {"agent_id": "ceo", "event_type": "x", "payload": {"message": "@say x"}}
    await aos.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to="agent-events")
    parked = await aos.client.receive("aos-poison")
    assert json.loads(str(parked)) == event


async def test_a_reply_that_cannot_be_delivered_is_parked(aos: World) -> None:
    event = {
        "agent_id": "ceo",
        "event_type": "x",
        "payload": {"message": "@say lost"},
        "conversation_id": "undelivered",
    }
    await aos.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to="no-such-queue")
    parked = await aos.client.receive("aos-poison")
    body = json.loads(str(parked))
    assert body["response"] == "lost"
    operation = await aos.app.http.get(f"operations/{body['operation_id']}")
    assert operation.json()["status"] == "completed"


async def test_arguments_that_violate_the_schema_never_leave(aos: World) -> None:
    names = (await aos.app.http.get("agents/ceo/status")).json()["tools"]
    kpis = next(name for name in names if name.endswith("get_kpis"))
    body = await aos.app.ask("ceo", f'@tool {kpis} {{"year": "last"}}')
    assert body["status"] == "completed"
    assert body["tool_calls"][0]["status"] == "refused"


class TestRegistry:
    """Each test leaves the sample registries behind."""

    @pytest.fixture(autouse=True)
    async def restored(self, aos: World) -> Any:
        yield
        servers = (aos.state / "project" / "mcp_server_registry.json").read_bytes()
        await aos.put_registry("agent_registry.json", (ROOT / "agent_registry.json").read_bytes())
        await aos.put_registry("mcp_server_registry.json", servers, "mcp-registry")
        await aos.app.until(
            "agents",
            lambda body: [agent["enabled"] for agent in body.get("agents", ())] == [True] * 5 and not body["problems"],
        )

    async def test_a_bad_entry_does_not_take_the_good_ones_down(self, aos: World) -> None:
        registry = json.loads((ROOT / "agent_registry.json").read_text())
        registry["agents"][1] = {"agent_id": "cfo"}
        registry["agents"].append({**registry["agents"][0], "purpose": "a second ceo"})
        registry["agents"][3]["mcp_tools"] = [{"server_name": "company-ledger", "tool_name": "get_kpi"}]
        await aos.put_registry("agent_registry.json", json.dumps(registry).encode())
        body = await aos.app.until("agents", lambda body: len(body.get("agents", ())) == 3)
        pointers = {problem["pointer"] for problem in body["problems"]}
        assert {"/agents/1/purpose", "/agents/1/domain_knowledge", "/agents/5/agent_id"} <= pointers
        assert "/agents/3/mcp_tools/0/tool_name" in pointers
        assert "get_kpis" in next(p["detail"] for p in body["problems"] if p["pointer"].endswith("tool_name"))
        assert (await aos.app.ask("ceo", "@say still here"))["reply"] == "still here"
        refused = await aos.app.http.post("agents/cfo", json={"message": "x"})
        assert refused.status_code == 404
        assert "/agents/1/" in refused.json()["detail"]
        bad = "/agents/1/purpose"
        health = await aos.app.until("health", lambda body: bad in body["checks"]["agent_registry"].get("detail", ""))
        assert health["status"] == "degraded"

    async def test_a_disabled_agent_is_409_and_its_events_are_parked(self, aos: World) -> None:
        registry = json.loads((ROOT / "agent_registry.json").read_text())
        registry["agents"][2]["enabled"] = False
        disabled = registry["agents"][2]["agent_id"]
        await aos.put_registry("agent_registry.json", json.dumps(registry).encode())
        await aos.app.until(f"agents/{disabled}/status", lambda body: body.get("status") == "disabled")
        response = await aos.app.http.post(f"agents/{disabled}", json={"message": "x"})
        assert (response.status_code, response.json()["code"]) == (409, "agent_disabled")
        await aos.client.send("agent-events", {"agent_id": disabled}, message_id=uuid.uuid4().hex, reply_to=REPLIES)
        assert json.loads(str(await aos.client.receive()))["error"]["code"] == "agent_disabled"
        await aos.client.receive("aos-poison")

    @pytest.mark.parametrize(
        ("data", "why"),
        [(b"{broken", "not JSON"), (b"[]", "must be a JSON object"), (b"\xff\xfe", "not UTF-8"), (None, "There is no")],
    )
    async def test_a_bad_or_missing_file_keeps_the_last_good_one(
        self, aos: World, data: bytes | None, why: str
    ) -> None:
        await aos.put_registry("agent_registry.json", data)
        (problem,) = (await aos.app.http.post("registry/reload")).json()["problems"]
        assert problem["pointer"] == ""
        assert why in problem["detail"]
        assert len((await aos.app.http.get("agents")).json()["agents"]) == 5
        assert (await aos.app.ask("ceo", "@say still here"))["reply"] == "still here"

    async def test_health_says_why_the_last_good_file_is_kept(self, aos: World) -> None:
        await aos.put_registry("agent_registry.json", None)
        why = "There is no"
        health = await aos.app.until("health", lambda body: why in body["checks"]["agent_registry"].get("detail", ""))
        assert health["status"] == "degraded"
        assert health["active_agents"] == 5

    async def test_a_changed_entry_is_applied_and_the_others_stay(self, aos: World) -> None:
        known = {
            agent: await aos.app.until(f"agents/{agent}/status", lambda body: body.get("status") == "running")
            for agent in ("ceo", "cfo")
        }
        before = {agent: body["foundry_agent_id"] for agent, body in known.items()}
        registry = json.loads((ROOT / "agent_registry.json").read_text())
        registry["agents"][0]["purpose"] = f"Strategy {uuid.uuid4().hex}"
        await aos.put_registry("agent_registry.json", json.dumps(registry).encode())
        after = await aos.app.until(
            "agents/ceo/status", lambda body: body.get("foundry_agent_id", before["ceo"]) != before["ceo"]
        )
        assert after["status"] == "running"
        cfo = (await aos.app.http.get("agents/cfo/status")).json()
        assert cfo["foundry_agent_id"] == before["cfo"]

    async def test_a_server_that_does_not_start_leaves_the_others_working(self, aos: World) -> None:
        servers = json.loads((aos.state / "project" / "mcp_server_registry.json").read_text())
        servers["servers"].append(
            {
                "server_id": "broken",
                "server_name": "broken",
                "server_type": "stdio",
                "command": "python",
                "args": ["-c", "raise SystemExit(3)"],
            }
        )
        await aos.put_registry("mcp_server_registry.json", json.dumps(servers).encode(), "mcp-registry")
        await aos.client.send("mcp-server-commands", {"command": "reload_registry"})

        def broken_alone_is_down(body: dict[str, Any]) -> bool:
            states = {server["server_id"]: server["status"] for server in body.get("servers", ())}
            return bool((states.get("broken"), states.get("company-ledger")) == ("failed", "running"))

        listed = await aos.app.until("mcp/servers", broken_alone_is_down)
        states = {server["server_id"]: server for server in listed["servers"]}
        assert states["broken"]["last_error"]
        health = await aos.app.until("health", lambda body: "broken" in body["checks"]["mcp_servers"].get("detail", ""))
        assert health["checks"]["mcp_servers"]["status"] == "degraded"
        assert (await aos.app.ask("ceo", "What was our revenue in Q3 2025?"))["tool_calls"][0]["status"] == "succeeded"


async def test_slow_and_parallel_callers_do_not_disturb_each_other(aos: World) -> None:
    answers = await asyncio.gather(*(aos.app.ask("ceo", f"@say {number}") for number in range(20)))
    assert [answer["reply"] for answer in answers] == [str(number) for number in range(20)]
