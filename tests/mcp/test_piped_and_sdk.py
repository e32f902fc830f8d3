"""The short way of calls tells of an answer what the SDK's own tells, whatever the answer."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import CallToolResult
from pydantic import ValidationError

from aos.mcp.connections import McpConnection
from tests.mcp.conftest import Connect, server_entry

TEXT = [{"type": "text", "text": "x"}]
RESULTS: tuple[dict[str, Any], ...] = (
    *({"content": TEXT}, {"content": []}, {"content": "x"}, {}, {"content": [{"type": "odd"}]}, {"toolResult": 5}),
    *({"content": TEXT, "isError": True}, {"content": TEXT, "isError": "yes"}, {"content": TEXT, "is_error": True}),
    *({"content": TEXT, "structuredContent": said} for said in ({"n": 1}, {"n": "x"}, [1], 5, None)),
    *({"content": TEXT, "_meta": {"a": 1}}, {"content": TEXT, "_meta": 5}, {"content": TEXT, "other": {"a": [1]}}),
    *({"content": TEXT, "ttlMs": -5}, {"content": TEXT, "ttlMs": "x", "cacheScope": "odd"}),
    *({"content": TEXT, "resultType": "odd"}, {"content": TEXT, "resultType": 5}),
)
ANSWERS: tuple[dict[str, Any], ...] = (
    *({"result": result} for result in RESULTS),
    *({"result": {"resultType": "complete", **result}} for result in RESULTS),
    {"result": {"resultType": "input_required"}},
    {"result": {"resultType": "input_required", "inputRequests": {"a": {"method": "odd"}}}},
    {"error": {"code": -32602, "message": "no", "data": {"a": 1}}},
    {"error": {"code": 1, "message": "", "odd": 1}},
    {"error": {"code": 5.0, "message": "no"}},
    {"error": {"code": -32022, "message": "no", "data": {"supported": ["2025-06-18"], "requested": "x"}}},
    {"result": {"content": TEXT}, "error": None},
    {"result": {"content": TEXT}, "error": {"code": 1, "message": "no"}},
)


async def told(call: Awaitable[CallToolResult]) -> object:
    try:
        return (await call).model_dump(mode="json", by_alias=True)
    except MCPError as error:
        return error.error.model_dump()
    except (ValidationError, RuntimeError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"])
async def test_answers_mean_what_they_mean_to_the_sdk(connect: Connect, version: str) -> None:
    connection: McpConnection = connect(server_entry("dictated", "dictated.py", version))
    await connection.tools()
    session = connection._session
    assert session is not None
    assert session.link.calls is not None
    client: Client = session.client
    assert client.protocol_version == version
    for dictated in ANSWERS:
        for tool in ("plain", "count"):
            ours = await told(session.link.calls.call_tool(client, tool, dictated))
            assert ours == await told(client.call_tool(tool, dictated)), (tool, dictated)
