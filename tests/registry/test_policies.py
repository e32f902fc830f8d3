"""Limits and approvals as an agent's entry sets them."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from aos.registry.agents import AgentRegistry, parse_agents
from aos.registry.policies import ToolConfiguration, TurnLimits, tool_configuration, turn_limits


def document(metadata: JsonValue = None, approval: JsonValue = "never") -> bytes:
    entry = {
        "agent_id": "ceo",
        "purpose": "Leads",
        "domain_knowledge": {"domain": "ceo"},
        "mcp_tools": [{"server_name": "files", "tool_name": "write", "configuration": {"approval": approval}}],
        "metadata": metadata,
    }
    return json.dumps({"version": "1.0", "agents": [entry]}).encode()


def test_limits_are_read_and_the_rest_keeps_its_default() -> None:
    (entry,) = parse_agents(document({"limits": {"tool_calls": 3}})).enabled
    assert turn_limits(entry.metadata) == TurnLimits(tool_calls=3)
    assert turn_limits({}) is None


@pytest.mark.parametrize(
    ("limits", "pointer"),
    [
        ({"tool_calls": 257}, "/tool_calls"),
        ({"model_steps": 0}, "/model_steps"),
        ({"total_tokens": "many"}, "/total_tokens"),
        ({"tokens": 5}, "/tokens"),
        ([], ""),
    ],
)
def test_limits_out_of_bounds_make_the_entry_bad(limits: JsonValue, pointer: str) -> None:
    registry = parse_agents(document({"limits": limits}))
    assert registry.enabled == ()
    assert [problem.pointer for problem in registry.problems] == [f"/agents/0/metadata/limits{pointer}"]


@pytest.mark.parametrize("policy", ["never", "always", "writes"])
def test_approval_policies(policy: str) -> None:
    (entry,) = parse_agents(document(approval=policy)).enabled
    assert tool_configuration(entry.mcp_tools[0].configuration).approval == policy


@pytest.mark.parametrize("policy", ["sometimes", True, None, ["always"]])
def test_a_policy_that_nobody_knows_makes_the_entry_bad(policy: JsonValue) -> None:
    (problem,) = parse_agents(document(approval=policy)).problems
    assert problem.pointer == "/agents/0/mcp_tools/0/configuration/approval"


def configured(configuration: JsonValue) -> AgentRegistry:
    entry = json.loads(document())["agents"][0]
    entry["mcp_tools"][0]["configuration"] = configuration
    return parse_agents(json.dumps({"version": "1.0", "agents": [entry]}).encode())


def test_a_configuration_is_a_typed_model() -> None:
    given: JsonValue = {
        "defaults": {"year": 2025},
        "fixed": {"region": "eu"},
        "hidden": ["debug"],
        "timeout_seconds": 2.5,
    }
    registry = configured(given)
    (entry,) = registry.enabled
    found = tool_configuration(entry.mcp_tools[0].configuration)
    assert (found.defaults, found.fixed, found.timeout_seconds) == ({"year": 2025}, {"region": "eu"}, 2.5)
    assert found.locked == {"region", "debug"}
    assert registry.warnings == ()


@pytest.mark.parametrize(
    ("configuration", "pointer", "said"),
    [
        ({"approval": "sometimes"}, "/approval", "never, always, writes"),
        ({"timeout_seconds": 0}, "/timeout_seconds", "greater than 0"),
        ({"timeout_seconds": "5"}, "/timeout_seconds", "number"),
        ({"defaults": ["year"]}, "/defaults", "dictionary"),
        ({"fixed": {"": 1}}, "/fixed/", "at least 1"),
        ({"hidden": "debug"}, "/hidden", "tuple"),
        ({"fixed": {"a": 1}, "defaults": {"a": 2}}, "/defaults/a", "is fixed"),
    ],
)
def test_a_configuration_that_is_wrong_makes_the_entry_bad(configuration: JsonValue, pointer: str, said: str) -> None:
    registry = configured(configuration)
    (problem,) = registry.problems
    assert problem.pointer == f"/agents/0/mcp_tools/0/configuration{pointer}"
    assert said in problem.detail
    assert registry.enabled == ()


def test_an_unknown_key_of_a_configuration_is_a_warning() -> None:
    registry = configured({"aproval": "always"})
    assert [entry.agent_id for entry in registry.enabled] == ["ceo"]
    (warning,) = registry.warnings
    assert warning.pointer == "/agents/0/mcp_tools/0/configuration/aproval"
    assert "Did you mean 'approval'?" in warning.detail


@pytest.mark.parametrize(
    ("policy", "reads", "writes"), [("never", False, False), ("always", True, True), ("writes", False, True)]
)
def test_who_waits_for_a_person(policy: str, reads: bool, writes: bool) -> None:
    found = ToolConfiguration.model_validate({"approval": policy})
    assert (found.approves(read_only=True), found.approves(read_only=False)) == (reads, writes)
