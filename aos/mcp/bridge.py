"""The way of a tool call over the bus, seen from the agents' side.

`tool_request` puts a call on topic `mcp-requests`; the MCP side (`aos.mcp.servers`) runs it and answers on
`mcp-responses`, where `tool_result` turns the answer into what the model is told. The `request_id` of a call names its
operation, so that any process can go on with the turn.
"""

from __future__ import annotations

import json
from typing import Any

from aos.kernel.types import SendTool, ToolResult
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import MCP_REQUESTS, ToolRequest, ToolResponse

LONGEST_OUTPUT = 200_000
"""Characters of a tool's answer that reach the model; the service takes about 1.5 million for a whole message."""


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


def tool_result(response: ToolResponse) -> ToolResult:
    """What the model is told: text as it is, structured content as JSON, errors as errors."""
    body = response.response
    if body.error is not None:
        told = _error(f"{body.error.code}: {body.error.message}")
        return ToolResult(response.request_id, _cut(told), failed=True)
    result = body.result or {}
    return ToolResult(response.request_id, _cut(_told(result)), failed=bool(result.get("isError")))


def _cut(told: str) -> str:
    if len(told) > LONGEST_OUTPUT:
        cut = len(told) - LONGEST_OUTPUT
        told = f"{told[:LONGEST_OUTPUT]}\n[{cut} more characters were cut off: ask for less at once]"
    return told


def _error(what: object) -> str:
    return json.dumps({"error": what}, ensure_ascii=False)


def _told(result: dict[str, Any]) -> str:
    structured = result.get("structuredContent")
    if isinstance(structured, dict):
        # A plain value travels as {"result": value} beside its text.
        return _error(structured) if result.get("isError") else json.dumps(structured, ensure_ascii=False)
    content = result.get("content")
    text = "\n".join(_part(part) for part in (content if isinstance(content, list) else []) if isinstance(part, dict))
    return _error(text) if result.get("isError") else text


def _part(part: dict[str, Any]) -> str:
    kind = part.get("type")
    if kind == "text":
        return str(part.get("text", ""))
    if kind in ("image", "audio"):
        return f"[{kind} {part.get('mimeType', '')}, {len(str(part.get('data', '')))} base64 characters, not shown]"
    if kind == "resource" and isinstance(part.get("resource"), dict):
        resource = part["resource"]
        return str(resource.get("text") or f"[resource {resource.get('uri', '')}]")
    return f"[{kind} {part.get('uri', '')}]"
