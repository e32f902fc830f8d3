from __future__ import annotations

import json
from typing import Any

from aos.agents.connected import LONGEST_PURPOSE, connected_tools, version_of
from aos.kernel.types import FunctionCall
from aos.mcp.functions import convert_mcp_tools_to_function_tools
from aos.registry.agents import AgentRegistry, parse_agents
from tests.agents.office import Office, agent_entry


def registry(*entries: dict[str, Any]) -> AgentRegistry:
    return parse_agents(json.dumps({"agents": entries}).encode())


def test_a_connected_agent_is_a_function_described_by_its_purpose() -> None:
    known = registry(
        agent_entry("ceo", connected_agents=["cfo", "off", "cfo", "cmo"]),
        agent_entry("cfo", purpose="Counts\n  money. " * 200),
        agent_entry("cmo"),
        agent_entry("off", enabled=False),
    ).entries
    tools = convert_mcp_tools_to_function_tools(connected_tools(known["ceo"], known))
    assert tools.names == ["ask_cfo", "ask_cmo"]
    description = tools.definitions[0].description
    assert description.startswith("Ask agent cfo, and get its answer. Its purpose: Counts money. Counts")
    assert len(description) < LONGEST_PURPOSE + 100
    planned = tools.plan(FunctionCall("c", "ask_cfo", '{"message": "How much?"}'))
    assert (planned.agent, planned.server, planned.tool, planned.refusal) == ("cfo", "", "cfo", None)
    for wrong in ("{}", '{"message": "  "}', '{"message": "x", "to": "y"}'):
        refused = tools.plan(FunctionCall("c", "ask_cfo", wrong))
        assert "do not fit the tool's schema" in str(refused.refusal)
    assert version_of([]) != version_of(connected_tools(known["ceo"], known))


async def test_an_agent_is_made_anew_when_the_purpose_of_a_connected_one_changes(office: Office) -> None:
    asking, other = agent_entry("chair1", connected_agents=["buyer1"]), agent_entry("buyer1")
    office.write(asking, other)
    first = await office.directory.bind("chair1")
    assert first.tools.names == ["ask_buyer1"]
    assert await office.directory.bind("chair1") is first
    office.write(asking, {**other, "purpose": "To buy."})
    office.later(20.0)
    second = await office.directory.bind("chair1")
    assert (first.ref.version, second.ref.version) == ("1", "2")
    assert second.tools.definitions[0].description.endswith("To buy.")
    office.write(asking, {**other, "enabled": False})
    office.later(20.0)
    assert (await office.directory.bind("chair1")).tools.names == []
