"""Servers over HTTP, in processes of their own that die, come back, hang and answer with too much."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aos.mcp import connections, stdio
from aos.mcp.connections import McpConnection
from aos.mcp.errors import (
    ServerDied,
    ServerNotConfigured,
    ServerRefused,
    ServerReplyTooLarge,
    ServerUnavailable,
    ToolTimeout,
)
from aos.registry.mcp_servers import ServerEntry
from tests.mcp.conftest import ROOT, Connect, HttpWorkshop, let_end, server_entry, written

LEAN_SERVER = ROOT / "benchmarks" / "lean_server.py"


async def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def lean_entry() -> ServerEntry:
    return server_entry("lean", command=sys.executable, args=("-I", "-S", str(LEAN_SERVER)))


async def lean_pid(connection: McpConnection) -> int:
    return int((await connection.call_tool("pid", {}, 60))["content"][0]["text"])


async def test_tools_resources_and_errors(http_workshop: HttpWorkshop, connect: Connect) -> None:
    connection = connect(http_workshop.entry)
    tools = {tool.name: tool for tool in (await connection.tools()).tools}
    assert tools["add"].read_only
    assert not tools["append"].repeatable
    assert (await connection.call_tool("add", {"a": 2, "b": 3}, 10))["structuredContent"] == {"result": 5}
    assert (await connection.call_tool("fail", {"reason": "why not"}, 10))["isError"] is True
    (resource,) = await connection.resources()
    assert (await connection.read_resource(resource["uri"]))[0]["text"] == "measure twice"
    with pytest.raises(ServerRefused):
        await connection.read_resource("workshop://nothing")
    results = await asyncio.gather(*(connection.call_tool("add", {"a": n, "b": n}, 10) for n in range(20)))
    assert [result["structuredContent"]["result"] for result in results] == [2 * n for n in range(20)]
    assert connection.session == 1


async def test_it_comes_back_after_the_server_died(
    http_workshop: HttpWorkshop, connect: Connect, tmp_path: Path
) -> None:
    connection, file = connect(http_workshop.entry), tmp_path / "notes"
    slow = asyncio.create_task(connection.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    await http_workshop.kill()
    with pytest.raises(ServerDied):
        await asyncio.wait_for(slow, 30)
    await http_workshop.start()

    async def called() -> bool:
        try:
            return (await connection.call_tool("add", {"a": 1, "b": 1}, 10))["isError"] is False
        except (ServerUnavailable, ServerDied):
            await asyncio.sleep(0.1)
            return False

    async with asyncio.timeout(60):
        while not await called():
            pass
    assert (connection.state, connection.last_error) == ("running", None)
    assert connection.restarts >= 1


async def test_a_call_that_found_no_server_was_not_sent(connect: Connect) -> None:
    workshop = HttpWorkshop("streamable_http")
    await workshop.start()
    connection = connect(workshop.entry)
    await connection.ready()
    await workshop.kill()
    with pytest.raises(ServerUnavailable, match="was not sent"):
        await connection.call_tool("append", {"file": "/nowhere/x", "line": "x"}, 10)


async def test_a_server_that_hangs_is_found_out(
    http_workshop: HttpWorkshop, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PING_SECONDS", 0.5)
    monkeypatch.setattr(connections, "END_SECONDS", 0.5)
    connection = connect(http_workshop.entry)
    await connection.tools()
    assert http_workshop.process is not None
    http_workshop.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ToolTimeout):
        await connection.call_tool("slow", {"seconds": 0}, 0.5)
    assert connection._given_up, "nobody waits until the SDK has told the server, which takes no messages"
    await eventually(lambda: connection.state != "running" or connection.restarts > 0)
    assert not connection._given_up
    http_workshop.process.send_signal(signal.SIGCONT)
    await connection.ready()
    assert (await connection.call_tool("add", {"a": 1, "b": 1}, 10))["structuredContent"] == {"result": 2}


async def test_a_hanging_child_is_replaced(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PING_SECONDS", 0.5)
    monkeypatch.setattr(stdio, "END_SECONDS", 0.3)
    connection = connect(lean_entry())
    os.kill(await lean_pid(connection), signal.SIGSTOP)
    with pytest.raises(ToolTimeout):
        await connection.call_tool("pid", {}, 0.5)
    await eventually(lambda: connection.restarts == 1)
    assert (await connection.call_tool("echo", {"text": "up"}, 60))["content"][0]["text"] == "up"


async def test_an_idle_server_that_hangs_is_found_out(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PING_EVERY", 0.1)
    monkeypatch.setattr(stdio, "END_SECONDS", 0.3)
    connection = connect(lean_entry())
    pid = await lean_pid(connection)
    session = connection._session
    assert session is not None
    before = session.link.heard
    await eventually(lambda: session.link.heard >= before + 3)
    assert connection.restarts == 0, "it answers the pings"
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(connections, "PING_SECONDS", 0.4)
    await eventually(lambda: connection.restarts > 0)


@pytest.mark.parametrize("kind", ["stdio", "streamable_http"])
async def test_ten_megabytes_arrive_and_more_than_allowed_does_not(kind: str, connect: Connect, tmp_path: Path) -> None:
    workshop = HttpWorkshop(kind)
    limits = {"limits": {"message_bytes": 1_000_000}}
    if kind == "stdio":
        large, small = connect(), connect(server_entry(metadata=limits))
    else:
        await workshop.start()
        large, small = connect(workshop.entry), connect(workshop.entry_with(metadata=limits))
    result = await large.call_tool("huge", {"size": 10_000_000}, 60)
    assert len(result["content"][0]["text"]) == 10_000_000
    file = tmp_path / "notes"
    waiting = asyncio.create_task(small.call_tool("append_until", {"file": str(file), "line": "x"}, 60))
    await written(file)
    with pytest.raises(ServerReplyTooLarge, match="1000000"):
        await small.call_tool("huge", {"size": 2_000_000}, 60)
    # The session goes on, and so do the other calls.
    let_end(file)
    assert (await waiting)["isError"] is False
    assert small.restarts == 0
    await workshop.kill()


async def test_a_server_that_babbles_is_given_up(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    connection = connect(server_entry("noisy", "workshop.py", "--babble"))
    with pytest.raises(ServerUnavailable, match="100 messages in a row that are not MCP"):
        await connection.ready()
    assert "not JSON-RPC" not in caplog.text


async def test_a_slow_start_is_waited_for(connect: Connect) -> None:
    connection = connect(server_entry("slow", "workshop.py", "--slow-start"))
    began = time.monotonic()
    assert (await connection.call_tool("add", {"a": 1, "b": 1}, 10))["structuredContent"] == {"result": 2}
    assert time.monotonic() - began >= 1.0


async def test_the_pace_is_kept(connect: Connect) -> None:
    connection = connect(server_entry(metadata={"limits": {"calls_per_second": 20}}))
    await connection.ready()
    began = time.monotonic()
    await asyncio.gather(*(connection.call_tool("add", {"a": 1, "b": 1}, 10) for _ in range(30)))
    # The bucket holds the calls of one second; a much slower pace would let some of them run out of time.
    assert time.monotonic() - began > 0.4


async def test_secrets_in_headers_and_addresses(
    connect: Connect, caplog: pytest.LogCaptureFixture, http_workshop: HttpWorkshop
) -> None:
    headers = {"authorization": "Bearer ${CRM_KEY}"}
    entry = http_workshop.entry_with(headers=headers, url="${CRM_URL}")
    environment = {"CRM_KEY": "s3cr3t-value", "CRM_URL": str(http_workshop.entry.url)}
    with caplog.at_level(logging.DEBUG, "aos"):
        connection = connect(entry, environment)
        assert (await connection.call_tool("add", {"a": 1, "b": 1}, 10))["isError"] is False
        missing = connect(entry, {"CRM_KEY": "s3cr3t-value"})
        with pytest.raises(ServerNotConfigured, match=r"url of MCP server workshop.*\$\{CRM_URL\}"):
            await missing.ready()
        broken = connect(entry, {**environment, "CRM_KEY": "s3cr3t-value\r\n"})
        with pytest.raises(ServerNotConfigured, match="value of authorization has characters") as caught:
            await broken.ready()
    assert "s3cr3t" not in caught.value.detail
    assert "s3cr3t" not in caplog.text
