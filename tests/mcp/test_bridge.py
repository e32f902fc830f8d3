from __future__ import annotations

import pytest

from aos.kernel.types import SendTool
from aos.mcp.bridge import list_request, operation_of, tool_request
from aos.messaging.envelopes import CallToolParams, ToolRequest, parse_body


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
