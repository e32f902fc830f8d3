"""Limits and approvals as an agent's entry sets them."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from aos.registry.agents import parse_agents
from aos.registry.policies import TurnLimits, approval_policy, turn_limits


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
    assert approval_policy(entry.mcp_tools[0].configuration) == policy


@pytest.mark.parametrize("policy", ["sometimes", True, None, ["always"]])
def test_a_policy_that_nobody_knows_makes_the_entry_bad(policy: JsonValue) -> None:
    (problem,) = parse_agents(document(approval=policy)).problems
    assert problem.pointer == "/agents/0/mcp_tools/0/configuration/approval"
    assert approval_policy({"approval": policy}) == "always"
