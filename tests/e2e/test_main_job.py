"""A registry becomes agents that answer over HTTP and Service Bus and use MCP tools."""

from __future__ import annotations

import asyncio
import csv
import json
import sqlite3
import uuid
from contextlib import closing
from decimal import Decimal

from tests.e2e.harness import REPLIES, ROOT, World

QUESTION = "How did revenue and operating profit in Q3 2025 change against the previous quarter?"


def new_id() -> str:
    return uuid.uuid4().hex


async def function(aos: World, agent_id: str, tool: str) -> str:
    """The name by which the agent's model calls a tool."""
    names: list[str] = (await aos.app.http.get(f"agents/{agent_id}/status")).json()["tools"]
    return next(name for name in names if name.endswith(tool))


async def test_an_answer_over_http_rests_on_a_real_tool(aos: World) -> None:
    body = await aos.app.ask("ceo", QUESTION)
    assert body["status"] == "completed"
    assert body["agent_id"] == "ceo"
    assert body["model"] == "llama-3.3-70b-ceo"
    assert body["usage"]["total_tokens"] > 0
    (call, *_) = body["tool_calls"]
    assert (call["server"], call["status"]) == ("company-ledger", "succeeded")
    assert call["id"].startswith(f"{body['operation_id']}.1.")
    assert json.loads(call["arguments"])["year"] == 2025
    assert f"{revenue(2025, 3):,.2f}" in body["reply"]
    again = await aos.app.http.get(f"operations/{body['operation_id']}")
    assert again.json() == body


async def test_a_conversation_goes_on(aos: World) -> None:
    first = await aos.app.ask("ceo", "Our code word is marigold.")
    second = await aos.app.ask("ceo", "What is our code word?", conversation_id=first["conversation_id"])
    assert second["conversation_id"] == first["conversation_id"]
    assert "marigold" in second["reply"]
    other = await aos.app.ask("ceo", "What is our code word?")
    assert "marigold" not in other["reply"]


async def test_the_same_idempotency_key_is_the_same_operation(aos: World) -> None:
    headers = {"Idempotency-Key": new_id()}
    answers = await asyncio.gather(
        *(aos.app.http.post("agents/cfo", json={"message": "@say once"}, headers=headers) for _ in range(5))
    )
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.json()["operation_id"] for answer in answers}) == 1
    other = await aos.app.http.post("agents/cfo", json={"message": "@say twice"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


async def test_respond_async_answers_at_once_and_the_operation_ends(aos: World) -> None:
    headers = {"Prefer": "respond-async"}
    response = await aos.app.http.post("agents/cto", json={"message": QUESTION}, headers=headers)
    assert response.status_code == 202
    assert response.headers["retry-after"] == "1"
    location = response.headers["location"]
    assert location == f"/api/operations/{response.json()['operation_id']}"
    body = await aos.app.until(location.removeprefix("/api/"), lambda body: body["status"] == "completed")
    assert body["reply"]


async def test_an_event_is_answered_at_its_reply_to(aos: World) -> None:
    correlation, session = new_id(), new_id()
    await aos.client.send(
        "agent-events",
        {"agent_id": "ceo", "event_type": "QuestionAsked", "payload": {"message": QUESTION}},
        message_id=new_id(),
        correlation_id=correlation,
        reply_to=REPLIES,
        reply_to_session_id=session,
    )
    reply = await aos.client.receive()
    body = json.loads(str(reply))
    assert reply.correlation_id == correlation
    assert reply.session_id == session
    assert reply.message_id == f"{body['operation_id']}.1.reply"
    assert body["status"] == "completed"
    assert body["event_type"] == "QuestionAsked"
    assert body["conversation_id"] == "main"
    operation = (await aos.app.http.get(f"operations/{body['operation_id']}")).json()
    assert operation["reply"] == body["response"]
    assert operation["tool_calls"][0]["status"] == "succeeded"


async def test_an_event_delivered_again_is_one_turn_and_one_reply_id(aos: World) -> None:
    message_id = new_id()
    event = {"agent_id": "coo", "event_type": "Ping", "payload": {"message": "@say pong"}, "conversation_id": new_id()}
    replies = []
    for _ in range(2):
        await aos.client.send("agent-events", event, message_id=message_id, reply_to=REPLIES)
        replies.append(await aos.client.receive())
    assert replies[0].message_id == replies[1].message_id
    assert str(replies[0]) == str(replies[1])
    assert json.loads(str(replies[0]))["response"] == "pong"


async def test_a_payload_without_a_message_reaches_the_model_as_data(aos: World) -> None:
    event = {"agent_id": "cmo", "event_type": "CampaignEnded", "payload": {"campaign": "spring"}}
    await aos.client.send("agent-events", event, message_id=new_id(), session_id=new_id(), reply_to=REPLIES)
    body = json.loads(str(await aos.client.receive()))
    assert body["status"] == "completed"
    assert body["conversation_id"] != "main"


async def test_events_of_one_conversation_are_taken_in_order(aos: World) -> None:
    conversation = new_id()
    for number in range(5):
        event = {
            "agent_id": "ceo",
            "event_type": f"n{number}",
            "payload": {"message": f"@say {number}"},
            "conversation_id": conversation,
        }
        accepted = await aos.app.http.post(
            "agents/ceo",
            json={"message": f"@say http {number}", "conversation_id": conversation},
            headers={"Prefer": "respond-async"},
        )
        assert accepted.status_code == 202
        await aos.client.send("agent-events", event, message_id=new_id(), reply_to=REPLIES)
        reply = json.loads(str(await aos.client.receive()))
        assert reply["response"] == str(number)
        earlier = await aos.app.http.get(f"operations/{accepted.json()['operation_id']}")
        assert earlier.json()["status"] == "completed"


async def test_a_writing_tool_writes_once(aos: World) -> None:
    mark = f"Audit {new_id()}"
    entry = {"account": "6400", "amount": 250, "description": mark, "date": "2025-11-03"}
    tool = await function(aos, "cfo", "record_transaction")
    body = await aos.app.ask("cfo", f"@tool {tool} {json.dumps(entry)}")
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"], body
    with closing(sqlite3.connect(aos.state / "ledger.db")) as ledger:
        written = ledger.execute("SELECT count(*) FROM transactions WHERE description = ?", (mark,)).fetchone()
    assert written == (1,)


async def test_tools_run_side_by_side(aos: World) -> None:
    kpis = await function(aos, "ceo", "get_kpis")
    lines = "\n".join(f'@tool {kpis} {{"year": 2025, "quarter": {quarter}}}' for quarter in (1, 2, 3, 4))
    body = await aos.app.ask("ceo", lines)
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"] * 4
    assert body["status"] == "completed"


async def test_agents_and_servers_are_listed(aos: World) -> None:
    health = await aos.app.until("health", lambda body: body["status"] == "healthy")
    assert health["agent_ids"] == ["ceo", "cfo", "cmo", "coo", "cto"]
    assert health["active_agents"] == 5
    assert health["runtime"] == "Foundry Agent Service (Llama 3.3 70B + LoRA)"
    listed = (await aos.app.http.get("agents")).json()["agents"]
    assert {agent["agent_id"]: agent["deployment"] for agent in listed}["cfo"] == "llama-3.3-70b-cfo"
    agent = (await aos.app.http.get("agents/ceo")).json()
    assert agent["lora_adapter"] == "ceo"
    status = (await aos.app.http.get("agents/ceo/status")).json()
    assert (status["type"], status["is_running"]) == ("PurposeDrivenAgentFoundry", True)
    running = {"business-calendar": "running", "company-ledger": "running"}
    # Health is up to ten seconds old.
    await aos.app.until(
        "mcp/servers", lambda body: {server["server_id"]: server["status"] for server in body["servers"]} == running
    )


def revenue(year: int, quarter: int) -> Decimal:
    """The sum that the ledger's data hold."""
    months = {f"{year}-{month:02d}" for month in range(3 * quarter - 2, 3 * quarter + 1)}
    with (ROOT / "examples/company_ledger/data/transactions.csv").open(newline="") as rows:
        booked = [row for row in csv.DictReader(rows) if row["date"][:7] in months and row["account"].startswith("4")]
    return sum((Decimal(row["amount"]) for row in booked), Decimal(0))
