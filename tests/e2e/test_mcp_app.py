"""The MCP side as an app of its own, its callers, and what operators tell it: two processes on one stack."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from emulators.settings import StackSettings
from emulators.stack import Stack
from tests.e2e.harness import REPLIES, ROOT, App, Client, project_folder

pytestmark = pytest.mark.slow
LEDGER = "mcp/servers/company-ledger/status"


class Apps:
    """A stack with the MCP side in one process; the agents get another one when they are needed."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.mcp = App({**stack.environment, "AOS_ROLES": "mcp"}, folder)
        self.agents = App({**stack.environment, "AOS_ROLES": "agents"}, folder)
        self.client = Client(stack.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"])

        self.started: list[App] = []

    async def start(self, app: App) -> None:
        self.started.append(app)
        await app.start()

    async def call(self, *arguments: str) -> tuple[int, Any]:
        """Runs `examples/call_a_tool.py`; its exit code, and what it printed."""
        environment = {
            "AZURE_SERVICE_BUS_CONNECTION_STRING": self.stack.environment["AZURE_SERVICE_BUS_CONNECTION_STRING"]
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "examples/call_a_tool.py"), "company-ledger", *arguments),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert output, errors.decode()
        return process.returncode or 0, json.loads(output)

    async def command(self, command: str) -> None:
        await self.client.send("mcp-server-commands", {"command": command, "server_id": "company-ledger"})


@pytest_asyncio.fixture(scope="module")
async def apps(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apps]:
    state: Path = tmp_path_factory.mktemp("apps")
    folder = project_folder(state)
    ports = {name: 0 for name in StackSettings.model_fields if name.endswith("_port")}
    settings = StackSettings.model_validate({"state_dir": state, "azurite_dir": ROOT / ".aos", **ports})
    async with Stack(settings, project=folder) as stack:
        apps = Apps(stack, folder)
        try:
            await apps.start(apps.mcp)
            yield apps
        finally:
            await apps.client.close()
            for app in apps.started:
                await app.stop()
            for app in (apps.mcp, apps.agents):
                await app.http.aclose()


async def test_answers_on_mcp_responses_are_found_by_their_request_id(apps: Apps) -> None:
    # No agents run, so that their subscription is free for this caller.
    code, response = await apps.call("get_kpis", '{"year": 2025}', "--subscription", "realm-agents")
    assert code == 0
    assert "revenue" in json.dumps(response["result"]["structuredContent"])


async def test_answers_on_a_queue_are_found_by_their_correlation_id(apps: Apps) -> None:
    code, response = await apps.call("get_kpis", '{"year": 2025}', "--reply-to", REPLIES)
    assert code == 0
    assert "revenue" in json.dumps(response["result"]["structuredContent"])
    code, response = await apps.call("get_kpis", '{"year": "never"}', "--reply-to", REPLIES)
    assert (code, response["error"]["code"], response["error"]["retryable"]) == (1, "invalid_params", False)


async def test_the_same_request_id_again_is_the_same_call(apps: Apps) -> None:
    booking = '{"account": "6500", "amount": 12.5, "description": "A train to Bonn"}'
    told = [
        await apps.call("record_transaction", booking, "--reply-to", REPLIES, "--request-id", "booking-1")
        for _ in range(2)
    ]
    assert told[0] == told[1]
    _, response = await apps.call("list_transactions", '{"account": "6500", "limit": 2}', "--reply-to", REPLIES)
    assert json.dumps(response["result"]["structuredContent"]).count("A train to Bonn") == 1


async def test_the_other_methods(apps: Apps) -> None:
    _, response = await apps.call("--method", "list_tools", "--reply-to", REPLIES)
    kpis = next(tool for tool in response["tools"] if tool["name"] == "get_kpis")
    assert kpis["inputSchema"]["required"] == ["year"]
    assert kpis["annotations"]["readOnlyHint"] is True
    _, response = await apps.call("--method", "list_resources", "--reply-to", REPLIES)
    assert "ledger://accounts" in [resource["uri"] for resource in response["resources"]]
    _, response = await apps.call("ledger://accounts", "--method", "read_resource", "--reply-to", REPLIES)
    (content,) = response["content"]
    assert (content["uri"], content["mimeType"]) == ("ledger://accounts", "application/json")
    assert json.loads(content["text"])


async def test_the_status_of_a_server(apps: Apps) -> None:
    status = await apps.mcp.until(LEDGER, lambda body: body.get("status") == "running" and body["tools"])
    assert (status["drift"], status["pin_tools"], status["stopped_by_command"]) == ([], True, False)
    assert {tool["name"] for tool in status["tools"]} >= {"get_kpis", "record_transaction"}
    assert (status["restarts"], status["breaker"]["state"]) == (0, "closed")
    missing = await apps.mcp.http.get("mcp/servers/nobody/status")
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_server")


async def test_a_stopped_server_stays_stopped_until_it_is_started(apps: Apps) -> None:
    await apps.command("stop")
    await apps.mcp.until(LEDGER, lambda body: body["status"] == "stopped")
    await apps.mcp.stop()
    await apps.mcp.restart()
    _, response = await apps.call("get_kpis", '{"year": 2025}', "--reply-to", REPLIES)
    assert response["error"]["code"] == "unavailable"
    assert "stopped by a command" in response["error"]["message"]
    status = (await apps.mcp.http.get(LEDGER)).json()
    assert (status["status"], status["stopped_by_command"]) == ("stopped", True)
    await apps.command("start")
    await apps.mcp.until(LEDGER, lambda body: body["status"] == "running")
    assert (await apps.call("get_kpis", '{"year": 2025}', "--reply-to", REPLIES))[0] == 0


async def test_a_restart_is_a_new_session(apps: Apps) -> None:
    before = await apps.mcp.until(LEDGER, lambda body: body["status"] == "running")
    await apps.command("restart")
    await apps.mcp.until(LEDGER, lambda body: body["status"] == "running" and body["since"] > before["since"])
    assert (await apps.call("get_kpis", '{"year": 2025}', "--reply-to", REPLIES))[0] == 0


async def test_agents_in_another_app_use_the_tools_and_see_the_servers(apps: Apps) -> None:
    await apps.start(apps.agents)
    await apps.agents.ready()
    body = await apps.agents.ask("ceo", '@tool company-ledger_get_kpis {"year": 2025}')
    assert [call["status"] for call in body["tool_calls"]] == ["succeeded"]
    seen = (await apps.agents.http.get(LEDGER)).json()
    told = (await apps.mcp.http.get(LEDGER)).json()
    assert (seen["status"], seen["owner"], seen["tools"]) == (told["status"], told["owner"], told["tools"])
