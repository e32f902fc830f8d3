"""Calls that go beside the session, to a server of the protocols with a handshake."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from aos.mcp.connections import McpConnection
from aos.mcp.errors import ServerDied, ServerRefused, ServerReplyInvalid, ServerReplyTooLarge, ToolTimeout
from aos.mcp.lane import FIRST_ID
from tests.mcp.conftest import SERVERS, Connect, server_entry


@pytest.fixture
def plain(connect: Connect) -> McpConnection:
    arguments = ("-I", "-S", str(SERVERS / "plain.py"))
    limits = {"limits": {"message_bytes": 65_536}}
    return connect(server_entry("plain", command=sys.executable, args=arguments, metadata=limits))


async def said(connection: McpConnection, tool: str, text: str = "", timeout: float = 10) -> str:
    result = await connection.call_tool(tool, {"text": text}, timeout)
    (part,) = result["content"]
    assert not result["isError"]
    return str(part["text"])


async def test_answers_are_matched_by_id_in_any_order(plain: McpConnection) -> None:
    waiting = asyncio.create_task(said(plain, "held"))
    texts = [f"text {number}" for number in range(20)]
    assert await asyncio.gather(*(said(plain, "echo", text) for text in texts)) == texts
    while not waiting.done():
        await said(plain, "echo", "give back what you hold")
    assert await waiting == "held"


async def test_an_id_may_come_back_as_text(plain: McpConnection) -> None:
    assert await said(plain, "text_id") == "as text"


async def test_a_call_in_vain_is_cancelled_and_the_next_one_goes_on(plain: McpConnection) -> None:
    with pytest.raises(ToolTimeout, match="silent"):
        await said(plain, "silent", timeout=0.2)
    ((cancelled,),) = [json.loads(await said(plain, "cancelled"))]
    assert cancelled["requestId"] >= FIRST_ID
    assert plain.restarts == 0


async def test_a_late_answer_is_dropped(plain: McpConnection) -> None:
    with pytest.raises(ToolTimeout):
        await said(plain, "held", timeout=0.2)
    assert await said(plain, "echo", "now") == "now"
    assert await said(plain, "echo", "again") == "again"


async def test_an_error_is_told_with_its_code(plain: McpConnection) -> None:
    with pytest.raises(ServerRefused, match="not like this") as refused:
        await said(plain, "refused")
    assert refused.value.code == "invalid_params"


async def test_what_is_no_result_is_refused(plain: McpConnection) -> None:
    with pytest.raises(ServerReplyInvalid, match="not MCP"):
        await said(plain, "wrong")


async def test_structured_content_is_compared_with_the_output_schema(plain: McpConnection) -> None:
    with pytest.raises(ServerReplyInvalid, match="integer"):
        await plain.call_tool("structured", {}, 10)


async def test_an_answer_that_is_too_long_fails_its_call_alone(plain: McpConnection) -> None:
    with pytest.raises(ServerReplyTooLarge, match="65536"):
        await said(plain, "long")
    assert await said(plain, "echo", "still there") == "still there"
    assert plain.restarts == 0


async def test_all_calls_fail_with_the_server(plain: McpConnection) -> None:
    calls = [asyncio.create_task(said(plain, "silent")) for _ in range(5)]
    await said(plain, "echo", "all are sent")
    for failed in await asyncio.gather(said(plain, "die"), *calls, return_exceptions=True):
        assert isinstance(failed, ServerDied)
    assert await said(plain, "echo", "anew") == "anew"
    assert plain.restarts == 1


async def test_the_trace_goes_along(plain: McpConnection) -> None:
    here = SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(here)):
        assert json.loads(await said(plain, "meta")) == {"traceparent": f"00-{0x1234:032x}-{0x5678:016x}-01"}
    assert json.loads(await said(plain, "meta")) is None
