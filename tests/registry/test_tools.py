from __future__ import annotations

import difflib
import json

import pytest

from aos.registry.agents import AgentRegistry, parse_agents
from aos.registry.mcp_servers import ServerRegistry, parse_servers
from aos.registry.tools import check_tools


def agents(*references: tuple[str, str], **changes: object) -> AgentRegistry:
    entry = {
        "agent_id": "cfo",
        "purpose": "Count",
        "domain_knowledge": {"domain": "cfo"},
        "mcp_tools": [{"server_name": server, "tool_name": tool} for server, tool in references],
    }
    other = {"agent_id": "cmo", "purpose": "Sell", "domain_knowledge": {"domain": "cmo"}}
    return parse_agents(json.dumps({"agents": [{"agent_id": 1}, other, {**entry, **changes}]}).encode())


def servers(*tools: str, **changes: object) -> ServerRegistry:
    declared = [{"name": name, "input_schema": {"type": "object"}} for name in tools]
    ledger = {"server_id": "ledger", "server_name": "company-ledger", "command": "x", "tools": declared, **changes}
    free = {"server_id": "free", "server_name": "free", "command": "x"}
    broken = {"server_id": "broken", "server_name": "broken", "command": ""}
    return parse_servers(json.dumps({"servers": [ledger, free, broken]}).encode())


def test_references_by_name_and_by_id_to_declared_tools_are_fine() -> None:
    before = agents(("company-ledger", "get_kpis"), ("ledger", "list_accounts"))
    after = check_tools(before, servers("get_kpis", "list_accounts"))
    assert after == before
    assert list(after.entries) == ["cmo", "cfo"]


def test_an_undeclared_tool_makes_the_agent_bad_and_names_those_that_exist() -> None:
    before = agents(("ledger", "list_accounts"), ("ledger", "get_kpi"))
    after = check_tools(before, servers("list_accounts", "get_kpis"))
    assert list(after.entries) == ["cmo"]
    assert list(before.entries) == ["cmo", "cfo"]
    problem = after.problems[-1]
    assert (problem.pointer, problem.agent_id) == ("/agents/2/mcp_tools/1/tool_name", "cfo")
    assert "declares no tool 'get_kpi'; it has 'get_kpis', 'list_accounts'." in problem.detail
    assert after.problems[:-1] == before.problems


def test_an_unknown_server_makes_the_agent_bad_and_names_those_that_exist() -> None:
    after = check_tools(agents(("compny-ledger", "get_kpis")), servers("get_kpis"))
    problem = after.problems[-1]
    assert problem.pointer == "/agents/2/mcp_tools/0/server_name"
    assert "no MCP server 'compny-ledger'; there is 'company-ledger', 'ledger', 'free'." in problem.detail
    assert "cfo" not in after.entries


def test_a_server_whose_entry_is_wrong_is_said_to_be_wrong() -> None:
    problem = check_tools(agents(("broken", "x")), servers()).problems[-1]
    assert "'broken' is wrong, at /servers/2/command" in problem.detail


def test_without_any_server_the_registry_of_servers_is_to_blame() -> None:
    problem = check_tools(agents(("ledger", "x")), parse_servers(b'{"servers": []}')).problems[-1]
    assert "the MCP server registry has no good entries" in problem.detail


def test_a_server_that_declares_nothing_is_not_held_to_it() -> None:
    assert "cfo" in check_tools(agents(("free", "whatever")), servers()).entries


def test_all_wrong_references_are_reported() -> None:
    after = check_tools(agents(("a", "x"), ("ledger", "y"), ("ledger", "z")), servers("t"))
    assert [p.pointer for p in after.problems[-3:]] == [
        "/agents/2/mcp_tools/0/server_name",
        "/agents/2/mcp_tools/1/tool_name",
        "/agents/2/mcp_tools/2/tool_name",
    ]


def test_a_long_list_of_tools_is_cut() -> None:
    problem = check_tools(agents(("ledger", "t7")), servers(*(f"tool_{i}" for i in range(30)))).problems[-1]
    assert problem.detail.count("'tool_") == 10
    assert problem.detail.endswith("and 20 more.")


def test_a_disabled_agent_stays_known_with_a_warning() -> None:
    before = agents(("nowhere", "x"), enabled=False)
    after = check_tools(before, servers())
    assert not after.entries["cfo"].enabled
    assert after.problems == before.problems
    assert [w.pointer for w in after.warnings] == ["/agents/2/mcp_tools/0/server_name"]


def test_a_disabled_server_is_a_warning() -> None:
    after = check_tools(agents(("ledger", "get_kpis")), servers("get_kpis", enabled=False))
    assert "cfo" in after.entries
    assert [w.pointer for w in after.warnings] == ["/agents/2/mcp_tools/0/server_name"]
    assert "is disabled" in after.warnings[0].detail


def test_what_all_agents_lack_is_explained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    def close(word: str, *args: object, **options: object) -> list[str]:
        looked_up.append(word)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", close)
    names = [f"gone_{number}" for number in range(60)]
    entries = [
        {
            "agent_id": f"a{number}",
            "purpose": "Count",
            "domain_knowledge": {"domain": "cfo"},
            "connected_agents": ["nobody", *names],
            "mcp_tools": [{"server_name": "ledger", "tool_name": name} for name in names],
        }
        for number in range(20)
    ]
    found = parse_agents(json.dumps({"agents": [{**entry, "connected_agents": []} for entry in entries]}).encode())
    assert len(check_tools(found, servers("list_accounts")).problems) == 20 * 60
    assert looked_up == names[:50], "comparing names takes milliseconds, during which nothing else is done"
    looked_up.clear()
    assert len(parse_agents(json.dumps({"agents": entries}).encode()).problems) == 20 * 61
    assert looked_up == ["nobody", *names][:50]
