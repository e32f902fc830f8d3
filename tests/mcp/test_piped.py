"""Calls over a pipe, beside the SDK's session on the same connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from aos.mcp import connections
from aos.mcp.connections import McpConnection
from aos.mcp.errors import ServerDied, ServerRefused, ToolTimeout
from aos.mcp.piped import FIRST_ID, NO_INPUT
from tests.mcp.conftest import Connect, server_entry

HERE = SpanContext(0xC0FFEE, 0xCAFE, False, TraceFlags(1))


@pytest.fixture
def blunt(connect: Connect, tmp_path: Path) -> Callable[..., McpConnection]:
    return lambda *arguments: connect(server_entry("blunt", "blunt.py", str(tmp_path / "read"), *arguments))


def read(tmp_path: Path) -> list[dict[str, Any]]:
    whole, _, _ = (tmp_path / "read").read_text().rpartition("\n")  # the server may be writing a line
    return [json.loads(line) for line in whole.splitlines()]


async def text_of(connection: McpConnection, tool: str, timeout: float = 10) -> str:
    return str((await connection.call_tool(tool, {}, timeout))["content"][0]["text"])


@pytest.mark.parametrize("mode", [(), ("--modern",)])
async def test_an_answer_finds_its_call_however_it_comes(
    blunt: Callable[..., McpConnection], mode: tuple[str, ...], tmp_path: Path
) -> None:
    connection = blunt(*mode)
    tools = ("plain", "as_text", "twice", "stray", "in_pieces", "with_news", "no_answer", "asks_back", "plain")
    for tool in tools:
        assert await text_of(connection, tool) == tool
    assert connection.session == 1
    calls = [message for message in read(tmp_path) if message.get("method") == "tools/call"]
    assert [call["id"] for call in calls] == list(range(FIRST_ID + 1, FIRST_ID + 10))
    asked_back = [message for message in read(tmp_path) if "method" not in message]
    assert [message["id"] for message in asked_back] == [FIRST_ID + 8]


async def test_a_refusal_says_what_the_server_says(blunt: Callable[..., McpConnection]) -> None:
    connection = blunt()
    with pytest.raises(ServerRefused, match="not with me") as refused:
        await connection.call_tool("refused", {}, 10)
    assert refused.value.code == "invalid_params"
    assert await text_of(connection, "plain") == "plain"


async def test_a_server_that_refuses_with_the_code_of_a_closed_connection_is_not_dead(
    blunt: Callable[..., McpConnection],
) -> None:
    connection = blunt()
    with pytest.raises(ServerRefused, match="the queue is full") as refused:
        await connection.call_tool("full", {}, 10)
    assert refused.value.rpc_code == -32000
    assert connection.session == 1


async def test_a_call_that_nobody_waits_for_is_cancelled_and_its_answer_dropped(
    blunt: Callable[..., McpConnection], tmp_path: Path
) -> None:
    connection = blunt()
    assert await text_of(connection, "plain") == "plain"  # the first call lists the tools, too
    with pytest.raises(ToolTimeout):
        await connection.call_tool("never", {}, 0.1)
    assert await text_of(connection, "late") == "late"
    given_up = asyncio.create_task(connection.call_tool("never", {}, 10))
    while len([m for m in read(tmp_path) if m.get("method") == "tools/call"]) < 4:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await text_of(connection, "late") == "late"
    cancelled = [m["params"]["requestId"] for m in read(tmp_path) if m.get("method") == "notifications/cancelled"]
    assert cancelled == [FIRST_ID + 2, FIRST_ID + 4]
    assert connection.session == 1


async def test_a_server_that_asks_for_time_is_asked_again(blunt: Callable[..., McpConnection], tmp_path: Path) -> None:
    connection = blunt("--modern")
    assert await text_of(connection, "patient") == "patient"
    states = [m["params"].get("requestState") for m in read(tmp_path) if m.get("method") == "tools/call"]
    assert states == [None, "1", "2"]


async def test_a_server_that_asks_somebody_is_told_that_nobody_is_there(blunt: Callable[..., McpConnection]) -> None:
    connection = blunt("--modern")
    with pytest.raises(ServerRefused, match=NO_INPUT):
        await connection.call_tool("asks_somebody", {}, 10)
    assert await text_of(connection, "plain") == "plain"


async def test_a_modern_server_is_told_on_each_call_who_calls(
    blunt: Callable[..., McpConnection], tmp_path: Path
) -> None:
    connection = blunt("--modern")
    await connection.call_tool("plain", {"text": "hi"}, 10)
    (params,) = [m["params"] for m in read(tmp_path) if m.get("method") == "tools/call"]
    assert (params["name"], params["arguments"]) == ("plain", {"text": "hi"})
    assert params["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


async def test_the_trace_of_a_caller_reaches_the_server(blunt: Callable[..., McpConnection], tmp_path: Path) -> None:
    connection = blunt()
    await connection.call_tool("plain", {}, 10)
    with trace.use_span(NonRecordingSpan(HERE)):
        await connection.call_tool("plain", {}, 10)
    metas = [m["params"].get("_meta") for m in read(tmp_path) if m.get("method") == "tools/call"]
    assert metas == [None, {"traceparent": f"00-{HERE.trace_id:032x}-{HERE.span_id:016x}-01"}]


async def test_calls_fail_at_once_when_the_connection_is_given_up(
    blunt: Callable[..., McpConnection], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Longer than the test: what a call waits for is the end of the connection itself.
    monkeypatch.setattr(connections, "LAST_WORD", 600.0)
    connection = blunt()
    assert await text_of(connection, "plain") == "plain"
    waiting = [asyncio.create_task(connection.call_tool("never", {}, 500)) for _ in range(3)]
    while len([m for m in read(tmp_path) if m.get("method") == "tools/call"]) < 4:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        await connection.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ServerDied] * 3
