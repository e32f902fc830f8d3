from __future__ import annotations

import json
from typing import Any

import pytest

from aos.registry.agents import AgentRegistry, parse_agents

SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}}
GOOD: dict[str, Any] = {"name": "foo", "description": "Get answers from the foo bot.", "parameters": SCHEMA}


def registry(*functions: object) -> AgentRegistry:
    entry = {
        "agent_id": "clerk",
        "purpose": "Asks.",
        "domain_knowledge": {"domain": "ceo"},
        "azure_functions": list(functions),
    }
    return parse_agents(json.dumps({"agents": [entry]}).encode())


def test_queues_are_named_after_the_function() -> None:
    (function,) = registry(GOOD).entries["clerk"].azure_functions
    assert (function.queue_in, function.queue_out) == ("azure-function-foo-input", "azure-function-foo-output")
    (function,) = registry(GOOD | {"name": "Get_Foo"}).entries["clerk"].azure_functions
    assert function.queue_in == "azure-function-get-foo-input"


def test_queues_may_be_named_otherwise() -> None:
    (function,) = registry(GOOD | {"input_queue": "in-1", "output_queue": "out-1"}).entries["clerk"].azure_functions
    assert (function.queue_in, function.queue_out) == ("in-1", "out-1")


@pytest.mark.parametrize(
    ("change", "pointer", "detail"),
    [
        ({"name": "no spaces"}, "name", "must match the pattern"),
        ({"parameters": None}, "parameters/type", "missing"),
        ({"parameters": {"type": "string"}}, "parameters/type", "object"),
        ({"parameters": {"type": "object", "properties": {"a": {"type": 3}}}}, "parameters/properties/a/type", ""),
        ({"parameters": SCHEMA | {"properties": {"CorrelationId": {}}}}, "parameters/properties/CorrelationId", "AOS"),
        ({"input_queue": "Not_A_Queue"}, "input_queue", "must match the pattern"),
        ({"input_queue": "q" * 57}, "input_queue", "56"),
        ({"output_queue": "ab"}, "output_queue", "3"),
        ({"name": "n" * 60}, "input_queue", "give the queue's name"),
        ({"name": "a__b"}, "input_queue", "give the queue's name"),
        ({"input_queue": "same", "output_queue": "same"}, "output_queue", "taken for replies"),
        ({"timeout_seconds": 0}, "timeout_seconds", "greater than 0"),
        ({"timeout_seconds": "30"}, "timeout_seconds", "number"),
        ({"approval": "writes"}, "approval", "never"),
    ],
)
def test_a_mistake_is_named_by_its_place(change: dict[str, object], pointer: str, detail: str) -> None:
    found = registry(GOOD | change)
    assert found.entries == {}
    problems = {problem.pointer: problem.detail for problem in found.problems}
    assert detail in problems[f"/agents/0/azure_functions/0/{pointer}"]


def test_a_name_stands_once() -> None:
    found = registry(GOOD, GOOD | {"input_queue": "other-in"})
    assert [(p.pointer, p.detail) for p in found.problems] == [
        ("/agents/0/azure_functions/1/name", "The name is taken by /azure_functions/0 of this agent.")
    ]


def test_unknown_keys_are_warned_about() -> None:
    found = registry(GOOD | {"inputqueue": "in-1"})
    assert [warning.pointer for warning in found.warnings] == ["/agents/0/azure_functions/0/inputqueue"]
