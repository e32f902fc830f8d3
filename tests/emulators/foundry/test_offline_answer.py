from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from emulators.foundry.offline.answer import MAX_ROWS, Outcome, answer_from, failure_of, parse_result


def answer(message: str, *results: JsonValue, arguments: str = "{}") -> str:
    return answer_from(message, [Outcome("tool", arguments, json.dumps(result)) for result in results])


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("plain text", "plain text"),
        ("42", 42),
        ('{"result": [1, 2]}', [1, 2]),
        ('{"structuredContent": {"a": 1}, "content": []}', {"a": 1}),
        ('{"content": [{"type": "text", "text": "{\\"a\\": 1}"}]}', {"a": 1}),
        ('{"content": [{"type": "text", "text": "hi"}], "isError": false}', "hi"),
        ('{"content": "a page"}', {"content": "a page"}),
    ],
)
def test_a_result_is_unwrapped(output: str, expected: JsonValue) -> None:
    assert parse_result(output) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"error": "broken"}, "broken"),
        ({"error": {"code": "timeout", "message": "too slow"}}, "too slow (timeout)"),
        ({"error": {"message": "too slow"}}, "too slow"),
        ({"error": {"odd": 1}}, '{"odd": 1}'),
        ({"isError": True, "content": [{"type": "text", "text": "bad year"}]}, "bad year"),
        ({"isError": True}, "no reason given"),
        ({"error": None, "a": 1}, None),
        ({"errors": 0}, None),
        ([1], None),
    ],
)
def test_a_failure_is_recognised(value: JsonValue, expected: str | None) -> None:
    assert failure_of(value) == expected


def test_what_was_asked_comes_first() -> None:
    text = answer("How many customers?", {"revenue": 1, "detail": {"customers": 166}, "open": True, "note": None})
    assert text == "According to tool: detail customers 166; revenue 1; open yes; note none."


def test_a_list_is_counted_and_cut() -> None:
    rows: list[JsonValue] = [{"id": number, "amount": 1000.5} for number in range(MAX_ROWS + 2)]
    text = answer("list", {"rows": rows, "sum": 12006.0})
    assert f"rows: {MAX_ROWS + 2} entries" in text
    assert "- id 0; amount 1,000.50" in text
    assert text.endswith("- and 2 more")
    assert "sum 12,006" in text
    assert answer("list", []) == "According to tool: nothing was found."
    assert answer("list", ["a", "b"]) == "According to tool: a, b."
    assert answer("x", {}) == "According to tool: an empty result."


def test_the_source_is_named_with_its_arguments() -> None:
    assert answer("x", 7, arguments='{"year": 2025, "all": true}') == "According to tool (year 2025, all yes): 7."


def test_results_of_one_tool_are_compared() -> None:
    outcomes = [
        Outcome("kpis", '{"year": 2025}', '{"revenue": 110, "staff": 5}'),
        Outcome("kpis", '{"year": 2024}', '{"revenue": 100, "staff": 5}'),
    ]
    text = answer_from("compare the revenue", outcomes)
    assert "Compared: revenue 110 (year 2025) against 100 (year 2024): up by 10, 10.0 %." in text
    assert "staff 5 (year" not in text
    assert "staff 5 (year 2025) against 5 (year 2024): no difference." in answer_from("compare the staff", outcomes)


def test_a_failure_stands_beside_a_success() -> None:
    outcomes = [Outcome("a", "{}", '{"x": 1}'), Outcome("b", "not json", '{"error": "gone"}')]
    assert answer_from("q", outcomes) == "According to a: x 1.\n\nb failed: gone"
