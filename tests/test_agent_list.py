"""The list of agents as callers with scopes see it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aos.endpoints import agent_list
from runtime import Caller, CallerKind, Request

LISTED = {
    "agents": [{"agent_id": "ceo"}, {"agent_id": "cfo"}],
    "problems": [
        {"pointer": "/agents/2/purpose", "detail": "Field required", "agent_id": "ceo-2"},
        {"pointer": "/agents/3/metadata", "detail": "Field required", "agent_id": "cfo-2"},
        {"pointer": "/agents/4/agent_id", "detail": "Field required", "agent_id": None},
    ],
}


@pytest.mark.parametrize(
    ("scopes", "agents", "problems"),
    [
        (None, ["ceo", "cfo"], ["ceo-2", "cfo-2", None]),
        (["agents/*:read"], ["ceo", "cfo"], ["ceo-2", "cfo-2", None]),
        (["agents/ceo:read", "agents/ceo-2:read"], ["ceo"], ["ceo-2"]),
        (["agents/cfo:run"], [], []),
        (["approver"], [], []),
    ],
)
async def test_a_key_sees_its_agents_and_what_is_wrong_with_them(
    scopes: list[str] | None, agents: list[str], problems: list[str | None]
) -> None:
    async def everything() -> dict[str, Any]:
        return dict(LISTED)

    system = SimpleNamespace(agents=SimpleNamespace(list=everything))
    caller = Caller(CallerKind.KEY, "shop", scopes=None if scopes is None else frozenset(scopes))
    response = await agent_list(Request("GET", "http://aos/api/agents", "agents", app=system, caller=caller))
    assert isinstance(response.body, dict)
    assert [agent["agent_id"] for agent in response.body["agents"]] == agents
    assert [problem["agent_id"] for problem in response.body["problems"]] == problems
