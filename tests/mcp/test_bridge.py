from __future__ import annotations

import json
from typing import Any

import pytest

from aos.kernel.types import SendTool, ToolResult
from aos.mcp.bridge import LONGEST_OUTPUT, list_request, operation_of, tool_request, tool_result
from aos.messaging.envelopes import CallToolParams, ToolError, ToolRequest, ToolResponse, ToolResponseBody, parse_body

PICTURE = {"type": "image", "mimeType": "image/png", "data": "AAAA"}


def answered(result: dict[str, Any]) -> ToolResult:
    return tool_result(ToolResponse(request_id="op_1.1.0", response=ToolResponseBody(result=result)))


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_the_request_of_a_call() -> None:
    message = tool_request(SendTool("op_1.2.0", "ledger", "lookup", '{"year": 2024, "name": "Müller"}'))
    assert (message.entity, message.message_id, message.correlation_id, message.subject) == (
        "mcp-requests",
        "op_1.2.0",
        "op_1.2.0",
        "ledger",
    )
    request = parse_body(ToolRequest, message.body)
    assert (request.request_id, request.server_id, request.method) == ("op_1.2.0", "ledger", "call_tool")
    assert CallToolParams.model_validate(request.params) == CallToolParams(
        tool_name="lookup", tool_params={"year": 2024, "name": "Müller"}
    )


def test_a_call_without_arguments_sends_an_empty_object() -> None:
    request = parse_body(ToolRequest, tool_request(SendTool("op_1.2.0", "ledger", "lookup", "")).body)
    assert request.params == {"tool_name": "lookup", "tool_params": {}}


def test_the_request_to_list_tools() -> None:
    message = list_request("ledger", "list.1")
    request = parse_body(ToolRequest, message.body)
    assert (message.entity, message.message_id, message.correlation_id) == ("mcp-requests", "list.1", "list.1")
    assert (request.request_id, request.server_id, request.method, request.params) == (
        "list.1",
        "ledger",
        "list_tools",
        {},
    )


@pytest.mark.parametrize(
    ("request_id", "operation_id"),
    [
        ("op_abc.1.0", "op_abc"),
        ("op_abc.12.34", "op_abc"),
        ("list.123", None),
        ("list.1.2", None),
        ("op_abc", None),
        ("op_abc.1", None),
        ("op_abc.1.2.3", None),
        ("", None),
    ],
)
def test_the_operation_that_a_request_belongs_to(request_id: str, operation_id: str | None) -> None:
    assert operation_of(request_id) == operation_id


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"content": [text("42")]}, "42"),
        ({"content": [text("one"), text("two")]}, "one\ntwo"),
        ({"content": [text("ü")], "isError": False}, "ü"),
        ({"content": []}, ""),
        ({}, ""),
        ({"content": None}, ""),
        ({"content": [PICTURE]}, "[image image/png, 4 base64 characters, not shown]"),
        ({"content": [{**PICTURE, "type": "audio"}]}, "[audio image/png, 4 base64 characters, not shown]"),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}]}, "inside"),
        ({"content": [{"type": "resource", "resource": {"uri": "file:///a", "blob": "AA"}}]}, "[resource file:///a]"),
        ({"content": [{"type": "resource_link", "uri": "file:///a", "name": "a"}]}, "[resource_link file:///a]"),
        ({"content": [text("see"), PICTURE]}, "see\n[image image/png, 4 base64 characters, not shown]"),
        ({"content": [{"type": "hologram"}]}, "[hologram ]"),
        ({"structuredContent": {"sum": 42, "name": "ü"}, "content": [text("ignored")]}, '{"sum": 42, "name": "ü"}'),
        ({"structuredContent": {"result": 42}}, '{"result": 42}'),
        ({"structuredContent": None, "content": [text("42")]}, "42"),
    ],
)
def test_what_the_model_is_told(result: dict[str, Any], told: str) -> None:
    assert answered(result) == ToolResult("op_1.1.0", told)


@pytest.mark.parametrize("result", [{"content": 7}, {"content": {"a": 1}}, {"content": ["text", 7, None]}])
def test_content_that_is_none(result: dict[str, Any]) -> None:
    assert answered(result) == ToolResult("op_1.1.0", "")


def test_a_tool_that_failed_is_an_error() -> None:
    assert answered({"content": [text("no such year")], "isError": True}) == ToolResult(
        "op_1.1.0", '{"error": "no such year"}', failed=True
    )
    structured = answered({"structuredContent": {"code": 7}, "isError": True})
    assert (json.loads(structured.output), structured.failed) == ({"error": {"code": 7}}, True)


def test_a_request_that_was_not_carried_out_is_an_error() -> None:
    error = ToolError(code="outcome_unknown", message="the größe is unknown")
    response = ToolResponse(request_id="op_1.1.0", response=ToolResponseBody(error=error))
    assert tool_result(response) == ToolResult(
        "op_1.1.0", '{"error": "outcome_unknown: the größe is unknown"}', failed=True
    )


@pytest.mark.parametrize("failed", [False, True])
def test_long_answers_are_cut(failed: bool) -> None:
    told = answered({"content": [text("x" * (LONGEST_OUTPUT + 5000))], "isError": failed})
    assert len(told.output) < LONGEST_OUTPUT + 100
    assert "more characters were cut off" in told.output
    assert told.failed is failed
    assert answered({"content": [text("x" * LONGEST_OUTPUT)]}).output == "x" * LONGEST_OUTPUT


def test_long_errors_are_cut() -> None:
    error = ToolError(code="unavailable", message="x" * (LONGEST_OUTPUT * 2))
    told = tool_result(ToolResponse(request_id="op_1.1.0", response=ToolResponseBody(error=error)))
    assert len(told.output) < LONGEST_OUTPUT + 100
