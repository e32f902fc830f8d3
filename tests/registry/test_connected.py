from __future__ import annotations

import json
from typing import Any

import pytest

from aos.registry.agents import AgentRegistry, parse_agents


def registry(*entries: dict[str, Any]) -> AgentRegistry:
    return parse_agents(json.dumps({"agents": entries}).encode())


def agent(agent_id: str, *connected: object, **changes: Any) -> dict[str, Any]:
    entry = {"agent_id": agent_id, "purpose": "Work", "domain_knowledge": {"domain": "ceo"}, **changes}
    return {**entry, "connected_agents": list(connected)} if connected else entry


def test_agents_may_name_each_other_even_in_a_circle() -> None:
    found = registry(agent("a", "b"), agent("b", "a"))
    assert (found.problems, found.warnings) == ((), ())
    assert found.entries["a"].connected_agents == ("b",)
    assert "connected_agents" not in (found.entries["a"].model_extra or {})


def test_an_agent_that_nobody_knows_makes_the_entry_bad_and_a_close_one_is_suggested() -> None:
    found = registry(agent("cfo"), agent("ceo", "cfo", "cfoo"))
    (problem,) = found.problems
    assert (problem.pointer, problem.agent_id) == ("/agents/1/connected_agents/1", "ceo")
    assert problem.detail == "There is no agent 'cfoo'. Did you mean 'cfo'?"
    assert list(found.entries) == ["cfo"]


def test_a_disabled_agent_that_names_an_unknown_one_is_warned_of() -> None:
    found = registry(agent("ceo", "nobody", enabled=False))
    assert list(found.entries) == ["ceo"]
    assert [warning.pointer for warning in found.warnings] == ["/agents/0/connected_agents/0"]


def test_an_agent_is_not_connected_to_itself() -> None:
    (problem,) = registry(agent("ceo", "ceo")).problems
    assert (problem.pointer, problem.detail) == (
        "/agents/0/connected_agents/0",
        "An agent cannot be connected to itself.",
    )


def test_bad_and_disabled_agents_and_repetitions_are_warned_of_and_do_no_harm() -> None:
    found = registry(agent("a", "off", "bad", "off"), agent("off", enabled=False), agent("bad", purpose=""))
    assert list(found.entries) == ["a", "off"]
    assert [(warning.pointer, warning.detail) for warning in found.warnings] == [
        ("/agents/0/connected_agents/2", "The agent 'off' is named before."),
        ("/agents/0/connected_agents/0", "The agent 'off' is disabled: it cannot be asked until it is enabled."),
        (
            "/agents/0/connected_agents/1",
            "The entry of the agent 'bad' is wrong, at /agents/2/purpose: The text must not be empty.",
        ),
        ("/agents/0/connected_agents/2", "The agent 'off' is disabled: it cannot be asked until it is enabled."),
    ]


def test_an_agent_that_names_one_with_an_unknown_connection_stays() -> None:
    found = registry(agent("a", "b"), agent("b", "nobody"))
    assert list(found.entries) == ["a"]


@pytest.mark.parametrize("connected", [[1], ["Not An Id"], ["x"] * 65])
def test_what_is_no_list_of_ids_is_a_problem(connected: list[object]) -> None:
    (problem, *_) = registry(agent("a", *connected)).problems
    assert problem.pointer.startswith("/agents/0/connected_agents")


@pytest.mark.parametrize("depth", [-1, 9, "3"])
def test_the_depth_is_bounded(depth: object) -> None:
    (problem,) = registry(agent("a", metadata={"limits": {"delegation_depth": depth}})).problems
    assert problem.pointer == "/agents/0/metadata/limits/delegation_depth"
