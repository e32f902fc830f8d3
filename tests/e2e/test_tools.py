"""Tools of every temper, end to end: over the bus, through a real server, back to the model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.harness import REPLIES, ROOT, World

TOOLS = ("add", "append", "crash", "crash_once", "fail", "huge")


@pytest_asyncio.fixture(scope="module")
async def workshop(aos: World) -> AsyncIterator[World]:
    """An agent `maker` with the tools of a second MCP server; the slow tool is of a third, in a hurry."""
    folder = aos.state / "project"
    servers = json.loads((folder / "mcp_server_registry.json").read_text())
    entry = {
        "server_id": "workshop",
        "server_name": "workshop",
        "server_type": "stdio",
        "command": "python",
        "args": [str(ROOT / "tests/mcp/servers/workshop.py")],
    }
    hasty = {**entry, "server_id": "hasty", "server_name": "hasty", "timeout_seconds": 2, "max_retries": 1}
    more = {**servers, "servers": [*servers["servers"], entry, hasty]}
    agents = json.loads((ROOT / "agent_registry.json").read_text())
    maker = {
        "agent_id": "maker",
        "purpose": "Makes things",
        "domain_knowledge": {"domain": "ceo"},
        "mcp_tools": [
            *({"server_name": "workshop", "tool_name": tool} for tool in TOOLS),
            {"server_name": "hasty", "tool_name": "slow"},
        ],
    }
    reference = {"server_name": "workshop", "tool_name": "add", "configuration": {"fixed": {"a": 40}}}
    clerk = {**maker, "agent_id": "clerk", "mcp_tools": [reference]}
    await aos.put_registry("mcp_server_registry.json", json.dumps(more).encode(), "mcp-registry")
    await aos.client.send("mcp-server-commands", {"command": "reload_registry"})
    await aos.put_registry("agent_registry.json", json.dumps({"agents": [*agents["agents"], maker, clerk]}).encode())
    await aos.app.ready("maker")
    yield aos
    await aos.put_registry("agent_registry.json", (ROOT / "agent_registry.json").read_bytes())
    await aos.put_registry("mcp_server_registry.json", json.dumps(servers).encode(), "mcp-registry")
    await aos.client.send("mcp-server-commands", {"command": "reload_registry"})
    await aos.app.until("agents", lambda body: len(body["agents"]) == 5)


async def call(workshop: World, tool: str, server: str = "workshop", **arguments: object) -> tuple[str, str]:
    """The status of the call, and what the model made of its result."""
    body = await workshop.app.ask("maker", f"@tool {server}_{tool} {json.dumps(arguments)}", timeout_seconds=85)
    assert body["status"] == "completed", body
    (made,) = body["tool_calls"]
    return made["status"], body["reply"]


async def test_a_result_of_a_megabyte_reaches_the_model_cut(workshop: World) -> None:
    body = await workshop.app.ask("maker", '@tool workshop_huge {"size": 1000000}')
    assert [made["status"] for made in body["tool_calls"]] == ["succeeded"]
    # What reached the model, at four characters a token: not the quarter of a million tokens that the tool returned.
    assert 40_000 < body["usage"]["input_tokens"] < 80_000


async def test_a_server_that_dies_during_a_writing_call_is_told_as_unknown(workshop: World) -> None:
    status, reply = await call(workshop, "crash")
    assert status == "failed"
    assert "outcome_unknown" in reply
    assert (await call(workshop, "add", a=2, b=3))[0] == "succeeded"


async def test_a_server_that_dies_during_a_reading_call_is_asked_again(workshop: World, tmp_path: Path) -> None:
    status, reply = await call(workshop, "crash_once", file=str(tmp_path / "crashed"))
    assert status == "succeeded"
    assert "survived" in reply


async def test_a_tool_that_takes_too_long_is_given_up(workshop: World) -> None:
    status, reply = await call(workshop, "slow", "hasty", seconds=600)
    assert status == "failed"
    assert "timeout" in reply


async def test_what_a_tool_says_of_its_failure_reaches_the_model(workshop: World) -> None:
    status, reply = await call(workshop, "fail", reason="the saw is blunt")
    assert status == "failed"
    assert "the saw is blunt" in reply


@pytest.mark.parametrize("arguments", ['{"a": -1, "b": 1}', '{"a": 1}'])
async def test_arguments_that_do_not_fit_are_refused_before_they_leave(workshop: World, arguments: str) -> None:
    body = await workshop.app.ask("maker", f"@tool workshop_add {arguments}")
    assert [made["status"] for made in body["tool_calls"]] == ["refused"]


async def test_an_argument_that_the_entry_sets_is_in_the_call_and_not_for_the_model_to_give(workshop: World) -> None:
    body = await workshop.app.ask("clerk", '@tool workshop_add {"b": 2}')
    (made,) = body["tool_calls"]
    assert (made["status"], json.loads(made["arguments"])) == ("succeeded", {"a": 40, "b": 2})
    assert "42" in body["reply"]
    body = await workshop.app.ask("clerk", '@tool workshop_add {"a": 1, "b": 2}')
    assert [made["status"] for made in body["tool_calls"]] == ["refused"]
    assert "not yours to give: a" in body["reply"]


async def test_a_writing_tool_runs_once_however_often_the_message_comes(workshop: World, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    request = {
        "request_id": f"app-{file.parent.name}",
        "server_id": "workshop",
        "method": "call_tool",
        "params": {"tool_name": "append", "tool_params": {"file": str(file), "line": "once"}},
    }
    for _ in range(3):
        await workshop.client.send("mcp-requests", request, message_id="m1", reply_to=REPLIES)
        answer = json.loads(str(await workshop.client.receive()))
        assert answer["response"]["result"]["content"][0]["text"] == "written"
    assert file.read_text() == "once\n"


async def test_a_tool_of_a_server_over_http(workshop: World) -> None:
    await workshop.app.ready("coo")
    answer = await workshop.app.ask(
        "coo",
        '@tool business-calendar_add_business_days {"calendar": "TARGET", "start": "2026-04-02", "business_days": 3}',
    )
    (made,) = answer["tool_calls"]
    assert (made["server"], made["status"]) == ("business-calendar", "succeeded")
    assert "2026-04-09" in answer["reply"]
