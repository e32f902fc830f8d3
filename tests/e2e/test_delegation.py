"""Agents that ask agents, on both generations of Foundry and on the custom runtime, and when processes are killed."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.azure_function_tool.loans import Loan, cost_of
from examples.azure_function_tool.routes import NAME, REGISTRY_ENTRY
from tests.e2e.faults import QUICK
from tests.e2e.harness import REPLIES, World, world
from tests.e2e.test_docs import examples
from tests.e2e.test_function_tools import app, started
from tests.model_server import Answer, Body, model_server

TERMS = {"principal": 200_000, "annual_rate_percent": 4.5, "months": 360}
EXAMPLE: list[dict[str, Any]] = json.loads(examples("docs/delegation.md", "json")[0])["agents"]
BOARD = {**EXAMPLE[0], "agent_id": "board", "connected_agents": ["clerk", "chair"]}
CLERK = {
    "agent_id": "clerk",
    "purpose": "Books what was approved",
    "domain_knowledge": {"domain": "cfo"},
    "connected_agents": ["board"],
    "mcp_tools": [
        {"server_name": "company-ledger", "tool_name": "record_transaction", "configuration": {"approval": "writes"}}
    ],
}
# What the service does itself: on the current generation it calls functions, on the older one it runs agents as well.
BROKER, PLAIN_TELLER = json.loads(examples("docs/delegation.md", "json")[2])["agents"]
TELLER = {**PLAIN_TELLER, "azure_functions": [{**REGISTRY_ENTRY, "execution": "service"}]}
AGENTS = [*EXAMPLE, BOARD, CLERK, TELLER, BROKER]


@pytest_asyncio.fixture(scope="module", params=["responses", "threads"])
async def company(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    state: Path = tmp_path_factory.mktemp(request.param)
    settings = {**QUICK, "FOUNDRY_API": request.param}
    async with world(state, settings, agents=AGENTS, bus_locks="PT5S", ready=False) as running:
        for agent_id in ("chair", "treasurer", "buyer", "board", "clerk", "teller"):
            await running.app.ready(agent_id)
        yield running


def ask(agent_id: str, message: str) -> str:
    """The order to ask an agent."""
    return f"@tool ask_{agent_id} {json.dumps({'message': message})}"


async def accepted(company: World, agent_id: str, message: str) -> str:
    """The path of the operation."""
    response = await company.app.http.post(f"agents/{agent_id}", json={"message": message, "timeout_seconds": 0})
    return f"operations/{response.json()['operation_id']}"


async def test_the_documented_agents_ask_each_other_and_operations_show_it(company: World) -> None:
    message = "\n".join((ask("treasurer", "@say we can pay 250"), ask("buyer", "@say they want 200"), "@say buy"))
    body = await company.app.ask("chair", message)
    assert (body["status"], body["reply"]) == ("completed", "buy"), body
    assert [(child["agent_id"], child["status"]) for child in body["children"]] == [
        ("treasurer", "succeeded"),
        ("buyer", "succeeded"),
    ]
    assert [call["agent"] for call in body["tool_calls"]] == ["treasurer", "buyer"]
    child = (await company.app.http.get(f"operations/{body['children'][0]['operation_id']}")).json()
    assert (child["reply"], child["conversation_id"]) == (
        "we can pay 250",
        body["children"][0]["conversation_id"],
    )
    assert child["parent"] == {
        "operation_id": body["operation_id"],
        "conversation_id": body["conversation_id"],
        "agent_id": "chair",
        "depth": 1,
    }
    follow_up = await company.app.ask("chair", "@say done", conversation_id=body["conversation_id"])
    assert follow_up["reply"] == "done"


async def test_an_agent_that_fails_and_a_circle_are_told_to_the_model(company: World) -> None:
    circle = ask("board", "@say never")
    body = await company.app.ask("board", "\n".join((ask("chair", "@fail content_filter"), ask("clerk", circle))))
    assert body["status"] == "completed"
    assert [(child["agent_id"], child["status"]) for child in body["children"]] == [
        ("chair", "failed"),
        ("clerk", "succeeded"),
    ]
    clerk = (await company.app.http.get(f"operations/{body['children'][1]['operation_id']}")).json()
    assert [(call["agent"], call["status"]) for call in clerk["tool_calls"]] == [("board", "refused")]
    assert "children" not in clerk


async def test_who_asks_waits_for_whom_a_person_keeps_waiting_and_cancelling_ends_both(company: World) -> None:
    names = (await company.app.http.get("agents/clerk/status")).json()["tools"]
    record = next(name for name in names if name.endswith("record_transaction"))
    entry = {"account": "6400", "amount": 250, "description": uuid.uuid4().hex, "date": "2025-11-03"}
    message = ask("clerk", f"@tool {record} {json.dumps(entry)}\n@say booked")
    operation = await accepted(company, "board", message)
    waiting = await company.app.until(operation, lambda body: body.get("waiting_on") == "agent")
    child = f"operations/{waiting['children'][0]['operation_id']}"
    await company.app.until(child, lambda body: body.get("waiting_on") == "approval")
    event = {"agent_id": "board", "payload": {"message": message}}
    await company.client.send("agent-events", event, message_id=uuid.uuid4().hex, reply_to=REPLIES)
    assert (await company.app.http.delete(operation)).json()["status"] == "cancelled"
    ended = await company.app.until(child, lambda body: body["status"] == "cancelled")
    assert ended["error"]["detail"] == f"Cancelled by operation {waiting['operation_id']}."

    # The other one, over the bus, is agreed to, by a process that was killed meanwhile.
    def others(body: dict[str, Any]) -> list[dict[str, Any]]:
        return [found for found in body["items"] if found["operation_id"] != waiting["children"][0]["operation_id"]]

    (item,) = others(await company.app.until("approvals", lambda body: bool(others(body))))
    await company.app.kill()
    await company.app.restart()
    decided = await company.app.http.post(f"approvals/{item['approval_id']}", json={"decision": "approve"})
    # 202 while the process that died still holds the conversation.
    assert decided.status_code in (200, 202), decided.text
    reply = json.loads(str(await company.client.receive()))
    assert reply["status"] == "completed", reply
    assert [(found["agent_id"], found["status"]) for found in reply["children"]] == [("clerk", "succeeded")]


async def test_the_service_calls_the_function_and_runs_the_agent_that_asks_it(company: World) -> None:
    """Agent, input queue, function, output queue, agent, answer; on the older generation behind a connected agent."""
    older = company.state.name.startswith("threads")
    if older:
        await company.app.ready("broker")
    status = (await company.app.http.get("agents/broker/status")).json()
    child = await started(app(company))
    try:
        call = f"@tool {NAME} {json.dumps(TERMS)}"
        body = await company.app.ask("teller", call)
        interest = cost_of(Loan.model_validate(TERMS)).total_interest
        assert body["status"] == "completed", body
        assert (interest in body["reply"], body["tool_calls"]) == (True, []), "AOS never saw the call"
        assert (await company.app.http.get("agents/teller/status")).json()["tools"] == [NAME]
        if older:
            assert (status["status"], status["tools"]) == ("running", ["ask_teller"])
            asked = await company.app.ask("broker", f"@tool ask_teller {json.dumps({'query': call})}")
            assert (asked["status"], interest in asked["reply"]) == ("completed", True), asked
            assert "children" not in asked
    finally:
        await child.stop()
    problems = (await company.app.http.get("agents")).json()["problems"]
    assert [problem["agent_id"] for problem in problems] == ([] if older else ["broker"])
    if not older:
        assert status["code"] == "unknown_agent"
        assert 'leave it at "aos"' in status["detail"]


@pytest.mark.slow
async def test_twenty_children_survive_kill_9(company: World) -> None:
    message = "\n".join(ask("treasurer", f"@say paid {number}") for number in range(20))
    operation = await accepted(company, "chair", f"{message}\n@say all paid")
    for _ in range(2):
        await asyncio.sleep(0.4)
        await company.app.kill()
        await company.app.restart()
    body = await company.app.until(operation, lambda body: body.get("status") == "completed", 150)
    assert body["reply"] == "all paid"
    assert len({child["operation_id"] for child in body["children"]}) == 20
    assert {child["status"] for child in body["children"]} == {"succeeded"}
    for number, child in enumerate(body["children"]):
        assert (await company.app.http.get(f"operations/{child['operation_id']}")).json()["reply"] == f"paid {number}"


async def test_the_custom_runtime_delegates_too(tmp_path: Path) -> None:
    def script(body: Body) -> Answer:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return Answer(f"The treasurer says: {last['content']}")
        if any(tool["function"]["name"] == "ask_treasurer" for tool in body.get("tools") or []):
            return Answer(None, [("call_1", "ask_treasurer", '{"message": "Can we pay?"}')])
        return Answer("We can.")

    async with model_server() as model:
        model.script = script
        settings = {"USE_FOUNDRY_RUNTIME": "false", "AOS_MODEL_ENDPOINT": model.url, "AOS_MODEL_API_KEY": "secret"}
        async with world(tmp_path, settings, agents=EXAMPLE, ready=False) as running:
            await running.app.ready("chair")
            body = await running.app.ask("chair", "May we buy?")
    assert body["reply"] == "The treasurer says: We can."
    assert [(child["agent_id"], child["status"]) for child in body["children"]] == [("treasurer", "succeeded")]
