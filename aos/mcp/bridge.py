"""The way of a tool call over the bus, seen from the agents' side.

`tool_request` puts a call on topic `mcp-requests`; the MCP side (`aos.mcp.servers`) runs it and answers on
`mcp-responses`, where `aos.mcp.results` turns the answer into what the model is told. The `request_id` of a call names
its operation, so that any process can go on with the turn.
"""

from __future__ import annotations

import json

from aos.kernel.types import SendTool
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import MCP_REQUESTS, ToolRequest


def tool_request(effect: SendTool) -> Outbound:
    """The message that asks the MCP side to run a tool. Sent twice it is one call: the ledger knows the id."""
    request = ToolRequest(
        request_id=effect.request_id,
        server_id=effect.server,
        method="call_tool",
        params={"tool_name": effect.tool, "tool_params": json.loads(effect.arguments or "{}")},
    )
    return Outbound(
        entity=MCP_REQUESTS,
        body=request.model_dump_json().encode(),
        message_id=effect.request_id,
        correlation_id=effect.request_id,
        subject=effect.server,
    )


def list_request(server: str, request_id: str) -> Outbound:
    """The message that asks the MCP side to list a server's tools, which writes them to the catalogue."""
    request = ToolRequest(request_id=request_id, server_id=server, method="list_tools")
    return Outbound(
        MCP_REQUESTS, request.model_dump_json().encode(), request_id, correlation_id=request_id, subject=server
    )


def operation_of(request_id: str) -> str | None:
    """The operation that a request id names, or None if it is not one of the kernel's."""
    operation_id, _, rest = request_id.partition(".")
    return operation_id if operation_id.startswith("op_") and rest.count(".") == 1 else None
