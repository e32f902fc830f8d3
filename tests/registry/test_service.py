from __future__ import annotations

import json
from typing import Any

import pytest

from aos.registry.agents import AgentRegistry, parse_agents
from aos.registry.service import Runtime, check_service

FUNCTION: dict[str, Any] = {"name": "foo", "parameters": {"type": "object"}}
SERVED = FUNCTION | {"execution": "service"}


def entry(agent_id: str, **more: Any) -> dict[str, Any]:
    return {"agent_id": agent_id, "purpose": "Helps.", "domain_knowledge": {"domain": "ceo"}, **more}


def chief(*others: str, **more: Any) -> dict[str, Any]:
    return entry("chief", connected_agents=list(others), delegation="service", **more)


def checked(runtime: Runtime, *entries: dict[str, Any]) -> AgentRegistry:
    return check_service(parse_agents(json.dumps({"agents": entries}).encode()), runtime)


def test_the_threads_generation_runs_connected_agents() -> None:
    found = checked("threads", chief("plain", "clerk"), entry("plain"), entry("clerk", azure_functions=[SERVED]))
    assert (found.problems, found.warnings) == ((), ())
    assert found.entries["chief"].delegation == "service"
    assert found.entries["plain"].delegation == "aos"


@pytest.mark.parametrize("runtime", ["responses", "custom"])
def test_others_do_not_and_the_remedy_is_named(runtime: Runtime) -> None:
    found = checked(runtime, chief("plain"), entry("plain"))
    assert list(found.entries) == ["plain"]
    (problem,) = found.problems
    assert (problem.pointer, problem.agent_id) == ("/agents/0/delegation", "chief")
    assert 'leave it at "aos"' in problem.detail
    assert "FOUNDRY_API=threads" in problem.detail


@pytest.mark.parametrize(
    ("other", "key"),
    [
        ({"mcp_tools": [{"server_name": "ledger", "tool_name": "look"}]}, "mcp_tools"),
        ({"azure_functions": [FUNCTION]}, "azure_functions"),
        ({"connected_agents": ["chief"]}, "connected_agents"),
        ({"connected_agents": ["chief"], "delegation": "service"}, "connected_agents"),
    ],
)
def test_an_agent_that_the_service_cannot_run_is_named_by_its_place(other: dict[str, Any], key: str) -> None:
    found = checked("threads", chief("plain", "clerk"), entry("plain"), entry("clerk", **other))
    assert "chief" not in found.entries
    problem = found.problems[0]
    assert problem.pointer == "/agents/0/connected_agents/1"
    assert f"agent 'clerk' as a connected one: its `{key}`" in problem.detail
    # The service never runs one that is disabled.
    off = checked("threads", chief("clerk"), entry("clerk", enabled=False, **other))
    assert "chief" in off.entries


def test_a_disabled_agent_is_warned_of() -> None:
    found = checked("responses", chief("plain", enabled=False), entry("plain"))
    assert "chief" in found.entries
    assert [warning.pointer for warning in found.warnings] == ["/agents/0/delegation"]
    assert found.problems == ()


def test_who_asks_nobody_leaves_nothing_to_the_service() -> None:
    assert checked("custom", chief()).problems == ()


def test_both_generations_call_functions_and_the_custom_runtime_does_not() -> None:
    for runtime in ("threads", "responses"):
        assert checked(runtime, entry("clerk", azure_functions=[FUNCTION, SERVED | {"name": "bar"}])).problems == ()
    (problem,) = checked("custom", entry("clerk", azure_functions=[FUNCTION, SERVED | {"name": "bar"}])).problems
    assert problem.pointer == "/agents/0/azure_functions/1/execution"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"delegation": "Service"}, "/agents/0/delegation"),
        ({"azure_functions": [SERVED | {"approval": "always"}]}, "/agents/0/azure_functions/0/approval"),
        ({"azure_functions": [FUNCTION | {"execution": "server"}]}, "/agents/0/azure_functions/0/execution"),
    ],
)
def test_a_choice_that_is_none_is_refused(change: dict[str, Any], pointer: str) -> None:
    found = checked("threads", entry("clerk", **change))
    assert [problem.pointer for problem in found.problems] == [pointer]
