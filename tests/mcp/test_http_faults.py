"""HTTP servers of the older protocol, with sessions, that fail in ways in which one built with the SDK does not."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aos.mcp import connections
from aos.mcp.errors import ServerDied, ServerNotConfigured, ServerReplyInvalid, ServerUnavailable
from aos.registry.mcp_servers import ServerEntry
from emulators.ports import settle
from tests.mcp.conftest import Connect, server_entry

Answer = Callable[[dict[str, Any], asyncio.StreamWriter], Awaitable[None]]


class OldServer:
    """MCP 2025-06-18 over streamable HTTP, one request per connection; `on` says how methods are answered."""

    def __init__(self) -> None:
        self.on: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.key = ""
        self.sockets: asyncio.Server | None = None

    def entry(self, **changes: Any) -> ServerEntry:
        assert self.sockets is not None
        url = f"http://127.0.0.1:{self.sockets.sockets[0].getsockname()[1]}/mcp"
        return server_entry("old", command=None, args=(), **{"server_type": "streamable_http", "url": url, **changes})

    async def start(self) -> None:
        # A port that nobody else is given when the server is gone.
        port = settle({"PORT": ("the old server", 0)})["PORT"]
        self.sockets = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            verb = head.partition(" ")[0]
            lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
            message = json.loads(body) if body else {}
            method = message.get("method", verb)
            self.asked.append(method)
            if self.key and f"x-key: {self.key}" not in head:
                writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            else:
                await self.on.get(method, _usual)(message, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # the client has gone
        finally:
            writer.close()


async def _usual(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    method = message.get("method", "")
    if method == "initialize":
        told = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "old", "version": "1"},
        }
        respond(writer, {"jsonrpc": "2.0", "id": message["id"], "result": told}, "Mcp-Session-Id: s1\r\n")
    elif method == "tools/list":
        respond(writer, {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}})
    elif "id" in message:
        error = {"code": -32601, "message": "Method not found"}
        respond(writer, {"jsonrpc": "2.0", "id": message["id"], "error": error})
    else:
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"202 Accepted" if method else b"405 No"))


def respond(writer: asyncio.StreamWriter, body: dict[str, Any], headers: str = "") -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)


async def lists(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    respond(writer, {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}})


@pytest.fixture
async def old_server() -> AsyncIterator[OldServer]:
    server = OldServer()
    await server.start()
    yield server
    assert server.sockets is not None
    server.sockets.close()


async def test_a_call_whose_answer_cannot_be_fetched_again_was_sent(old_server: OldServer, connect: Connect) -> None:
    async def dies(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        # The stream can be resumed, says its first event; but then there is nobody who would answer.
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 1\nretry: 1\ndata:\n\n")
        await writer.drain()
        assert old_server.sockets is not None
        old_server.sockets.close()

    old_server.on["tools/call"] = dies
    connection = connect(old_server.entry())
    await connection.ready()
    with pytest.raises(ServerDied):
        await connection.call_tool("append", {}, 60)
    assert old_server.asked.count("tools/call") == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"503 Service Unavailable\r\nServer: envoy", ServerDied),
        (b"503 Service Unavailable\r\nRetry-After: 1", ServerUnavailable),
        (b"429 Too Many Requests", ServerUnavailable),
    ],
)
async def test_what_may_have_run_is_told_from_what_did_not(
    old_server: OldServer, connect: Connect, answer: bytes, error: type[Exception]
) -> None:
    async def refuses(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % answer)

    old_server.on["tools/call"] = refuses
    with pytest.raises(error):
        await connect(old_server.entry()).call_tool("append", {}, 10)


async def test_a_server_that_forgot_the_session_gets_a_new_one(old_server: OldServer, connect: Connect) -> None:
    async def forgot(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        old_server.on["tools/list"] = lists
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    old_server.on["tools/list"] = forgot
    connection = connect(old_server.entry())
    with pytest.raises(ServerUnavailable, match="does not know the session any more"):
        await connection.tools()
    assert (await connection.tools()).tools == ()
    assert connection.restarts == 1


async def test_a_session_that_cannot_be_ended_holds_nobody_up(
    old_server: OldServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "END_SECONDS", 0.3)
    silent = asyncio.Event()

    async def hangs(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    old_server.on["DELETE"] = hangs
    try:
        async with asyncio.timeout(60):
            # Once more where the time was over before it was even asked.
            while "DELETE" not in old_server.asked:
                connection = connect(old_server.entry())
                await connection.ready()
                await connection.close()
    finally:
        silent.set()


async def test_a_key_that_is_replaced_is_read_again(old_server: OldServer, connect: Connect) -> None:
    old_server.on["tools/list"] = lists
    environment = {"CRM_KEY": "first-key"}
    old_server.key = "first-key"
    connection = connect(old_server.entry(headers={"x-key": "${CRM_KEY}"}), environment)
    await connection.tools()
    old_server.key = "second-key"
    with pytest.raises(ServerNotConfigured, match="HTTP 401"):
        await connection.tools()
    environment["CRM_KEY"] = "second-key"
    async with asyncio.timeout(60):
        while True:
            try:
                await connection.tools()
                break
            except (ServerNotConfigured, ServerUnavailable):
                await asyncio.sleep(0.05)
    assert connection.state == "running"


async def test_an_address_that_holds_a_secret_is_masked(
    old_server: OldServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")

    old_server.on = dict.fromkeys(("GET", "initialize", "server/discover"), refuses)
    url = f"{old_server.entry().url}?key=s3cr3t-value"
    caplog.set_level(logging.INFO)
    for kind in ("sse", "streamable_http"):
        connection = connect(old_server.entry(server_type=kind, url="${CRM_URL}"), {"CRM_URL": url})
        with pytest.raises(ServerUnavailable) as caught:
            await connection.ready()
        assert "s3cr3t" not in caught.value.detail
        assert "s3cr3t" not in (connection.last_error or "")
        await connection.close()
    assert "HTTP Request: POST ***" in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_a_compressed_answer_is_bounded_by_what_it_holds(old_server: OldServer, connect: Connect) -> None:
    async def explodes(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        result = {"content": [{"type": "text", "text": "x" * 4_000_000}]}
        bomb = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        writer.write(f"{head}Content-Length: {len(bomb)}\r\n\r\n".encode() + bomb)

    old_server.on["tools/call"] = explodes
    connection = connect(old_server.entry(metadata={"limits": {"message_bytes": 65536}}))
    with pytest.raises(ServerReplyInvalid):
        await connection.call_tool("find", {}, 10)


@pytest.mark.parametrize("encoding", ["Identity", "utf-8", ""])
async def test_an_answer_whose_encoding_is_no_compression_is_read(
    old_server: OldServer, connect: Connect, encoding: str
) -> None:
    async def mistaken(message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        body = {"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}}
        respond(writer, body, f"Content-Encoding: {encoding}\r\n")

    old_server.on["tools/list"] = mistaken
    assert (await connect(old_server.entry()).tools()).tools == ()
