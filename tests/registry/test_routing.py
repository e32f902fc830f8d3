from __future__ import annotations

import json
from typing import Any

import pytest

from aos.registry.agents import parse_agents
from aos.registry.routing import RoutingRules, routing_rules


def problems(routing: Any) -> list[str]:
    entry = {"agent_id": "cfo", "purpose": "p", "domain_knowledge": {"domain": "cfo"}, "metadata": {"routing": routing}}
    parsed = parse_agents(json.dumps({"version": "1.0", "agents": [entry]}).encode())
    assert bool(parsed.problems) != bool(parsed.entries)
    return [str(problem) for problem in parsed.problems]


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        ([], "/agents/0/metadata/routing: It must be an object"),
        ({"keyword": ["x"]}, "/agents/0/metadata/routing/keyword: Extra inputs"),
        ({"keywords": ["x", ""]}, "/agents/0/metadata/routing/keywords/1: "),
        ({"keywords": "x"}, "/agents/0/metadata/routing/keywords: "),
        ({"prefixes": [1]}, "/agents/0/metadata/routing/prefixes/0: "),
        ({"keywords": ["x"] * 65}, "/agents/0/metadata/routing/keywords: "),
        ({"default": "yes"}, "/agents/0/metadata/routing/default: "),
    ],
)
def test_wrong_rules_make_the_entry_bad_and_say_where(routing: Any, said: str) -> None:
    assert problems(routing)[0].startswith(said)


def test_good_rules_are_taken() -> None:
    assert problems({"keywords": ["cash flow"], "prefixes": ["finance:"], "default": True}) == []
    assert routing_rules({}) == RoutingRules()


@pytest.mark.parametrize(
    ("message", "matches"),
    [
        ("Finance: what now?", True),
        ("  FINANCE:now", True),
        ("how is our Cash Flow?", True),
        ("cash flows", False),
        ("our finance: x", False),
        ("C++ and more", True),
        ("Größe", True),
        ("anything else", False),
    ],
)
def test_keywords_are_whole_words_and_capitals_do_not_count(message: str, matches: bool) -> None:
    rules = RoutingRules(keywords=("cash flow", "c++", "größe"), prefixes=("finance:",))
    assert (rules.match(message) is not None) == matches
