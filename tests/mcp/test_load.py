"""Many calls at a time while servers die, and many servers at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos.kernel import breaker
from aos.mcp import connections
from aos.mcp.connections import McpConnection
from aos.mcp.secrets import EnvironmentSecrets
from tests.mcp.conftest import ROOT, Connect, HttpWorkshop, ShiftedClock, let_end, server_entry, written
from tests.mcp.test_servers import MakeSide, code, make_side, text

__all__ = ["make_side"]
SERVERS = 50
LEAN_SERVER = ROOT / "benchmarks" / "lean_server.py"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is tried again soon, so that no call gives up while one takes its time to start."""
    for module in (breaker, connections):
        monkeypatch.setattr(module, "FIRST_PAUSE", 0.5)
        monkeypatch.setattr(module, "LONGEST_PAUSE", 1.0)


async def test_a_restart_during_a_hundred_calls_loses_none_and_writes_none_twice(
    make_side: MakeSide, tmp_path: Path
) -> None:
    side = make_side(timeout_seconds=60, max_retries=10)
    file = tmp_path / "lines"
    # Those that the server has at its death work until then, whenever that is.
    writing = [side.request("append_until", {"file": str(file), "line": f"line {n}"}) for n in range(50)]
    reading = [side.request("slow", {"seconds": 0.2}) for _ in range(50)]
    pid = int(text(await side.call("pid")))
    mixed = [request for pair in zip(writing, reading, strict=True) for request in pair]
    handled = asyncio.gather(*map(side.servers.handle, mixed))
    await written(file)
    os.kill(pid, signal.SIGKILL)
    let_end(file)
    await handled
    answers = {str(message.correlation_id): await side.read(message) for message in side.sent}
    assert len(side.sent) == len(answers) == 100
    assert all(answers[request.request_id].result is not None for request in reading)
    lines = Counter(file.read_text().splitlines())
    assert max(lines.values()) == 1
    for number, request in enumerate(writing):
        body = answers[request.request_id]
        if body.error is None:
            assert lines[f"line {number}"] == 1
        else:
            # It was under way when the server died: the caller is told that nobody knows.
            assert code(body) == "outcome_unknown"
    unknown = sum(answers[request.request_id].error is not None for request in writing)
    assert 1 <= unknown <= 16


async def test_over_http_too(make_side: MakeSide, tmp_path: Path) -> None:
    workshop = HttpWorkshop("streamable_http")
    await workshop.start()
    side = make_side(
        server_type="streamable_http", url=workshop.entry.url, command=None, args=[], timeout_seconds=60, max_retries=10
    )
    file = tmp_path / "lines"
    writing = [
        side.request("append_slowly", {"file": str(file), "line": f"line {n}", "seconds": 0.2}) for n in range(20)
    ]
    reading = [side.request("slow", {"seconds": 0.2}) for _ in range(20)]
    mixed = [request for pair in zip(writing, reading, strict=True) for request in pair]
    handled = asyncio.gather(*map(side.servers.handle, mixed))
    await written(file)
    await workshop.kill()
    await workshop.start()
    await handled
    answers = {str(message.correlation_id): await side.read(message) for message in side.sent}
    assert len(side.sent) == len(answers) == 40
    assert all(answers[request.request_id].result is not None for request in reading)
    lines = Counter(file.read_text().splitlines())
    assert max(lines.values()) == 1
    for number, request in enumerate(writing):
        body = answers[request.request_id]
        if body.error is None:
            assert lines[f"line {number}"] == 1
        else:
            assert code(body) == "outcome_unknown"
    await workshop.kill()


@pytest.fixture
async def fifty(clock: ShiftedClock) -> AsyncIterator[list[McpConnection]]:
    entries = [
        server_entry(f"s{number}", command=sys.executable, args=("-I", "-S", str(LEAN_SERVER)))
        for number in range(SERVERS)
    ]
    connections = [McpConnection(entry, EnvironmentSecrets({}), clock) for entry in entries]
    yield connections
    await asyncio.gather(*(connection.close() for connection in connections))


async def test_fifty_servers(fifty: list[McpConnection]) -> None:
    results = await asyncio.gather(*(c.call_tool("echo", {"text": c.entry.server_id}, 30) for c in fifty))
    assert [result["content"][0]["text"] for result in results] == [c.entry.server_id for c in fifty]
    pids = [int((await c.call_tool("pid", {}, 10))["content"][0]["text"]) for c in fifty]
    for pid in pids[::2]:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        for connection in fifty[::2]:
            while connection.restarts == 0:  # noqa: ASYNC110 - the connection tells nobody
                await asyncio.sleep(0.02)
    results = await asyncio.gather(*(c.call_tool("echo", {"text": c.entry.server_id}, 30) for c in fifty))
    assert [result["content"][0]["text"] for result in results] == [c.entry.server_id for c in fifty]
    assert [c.restarts for c in fifty] == [1, 0] * (SERVERS // 2)


async def test_a_lean_server_speaks_the_protocol(connect: Connect) -> None:
    connection = connect(server_entry("lean", command=sys.executable, args=("-I", "-S", str(LEAN_SERVER))))
    assert [tool.name for tool in (await connection.tools()).tools] == ["echo", "pid"]
