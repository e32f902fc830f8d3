"""The sample registries say what the example servers really offer, and the agents name only that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

ROOT = Path(__file__).parents[2]


def registry(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return content


async def test_the_registered_server_starts_as_registered_and_lists_what_is_registered(tmp_path: Path) -> None:
    entry = registry("mcp_server_registry.json")["servers"][0]
    assert (entry["server_type"], entry["command"], entry["env"]) == ("stdio", "python", {})
    environment = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)}
    server = StdioServerParameters(command=sys.executable, args=entry["args"], env=environment)
    async with Client(server, read_timeout_seconds=60) as client:
        tools = (await client.list_tools()).tools
        resources = (await client.list_resources()).resources
    assert entry["tools"] == [
        {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema} for tool in tools
    ]
    assert [
        (found["uri"], found["name"], found["description"], found["mime_type"]) for found in entry["resources"]
    ] == [(str(found.uri), found.name, found.description, found.mime_type) for found in resources]
    assert (tmp_path / "aos-company-ledger" / "ledger.db").is_file()


@pytest.mark.parametrize(("index", "module"), [(0, "examples.company_ledger"), (1, "examples.business_calendar")])
def test_the_servers_print_their_own_entries(index: int, module: str, tmp_path: Path) -> None:
    environment = {**os.environ, "COMPANY_LEDGER_DB": str(tmp_path / "ledger.db")}
    printed = subprocess.run(
        [sys.executable, "-m", module, "--registry-entry"],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert json.loads(printed.stdout) == registry("mcp_server_registry.json")["servers"][index]


def test_agents_refer_only_to_tools_that_are_registered() -> None:
    offered = {
        (server["server_name"], tool["name"])
        for server in registry("mcp_server_registry.json")["servers"]
        for tool in server["tools"]
    }
    agents = registry("agent_registry.json")["agents"]
    assert [agent["agent_id"] for agent in agents] == ["ceo", "cfo", "cto", "cmo", "coo"]
    for agent in agents:
        used = [(tool["server_name"], tool["tool_name"]) for tool in agent["mcp_tools"]]
        assert used
        assert len(used) == len(set(used))
        assert set(used) <= offered
        assert agent["domain_knowledge"]["domain"] == agent["agent_id"]
        assert 3 <= len(agent["success_criteria"]) <= 4
    writers = [a["agent_id"] for a in agents if any(t["tool_name"] == "record_transaction" for t in a["mcp_tools"])]
    assert writers == ["cfo"]
