"""A server over the older event stream that refuses a message, while its stream goes on."""

from __future__ import annotations

import asyncio
import json

from aos.mcp.errors import RequestFailed
from tests.mcp.conftest import Connect, server_entry

RESULTS = {
    "initialize": {
        "protocolVersion": "2024-11-05",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "old", "version": "1"},
    },
    "tools/list": {"tools": []},
}


async def test_a_message_that_is_refused_costs_no_more_than_the_session(connect: Connect) -> None:
    streams: list[asyncio.StreamWriter] = []
    refusals = ["tools/list"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            if head.startswith("get"):
                streams.append(writer)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                writer.write(b"event: endpoint\ndata: /messages\n\n")
                await reader.read()
                return
            length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
            message = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            method = message["method"]
            refused = method in refusals
            if refused:
                refusals.remove(method)
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % (b"500 Oh" if refused else b"202 Accepted"))
            if "id" in message and not refused:
                answer = {"jsonrpc": "2.0", "id": message["id"]}
                if method in RESULTS:
                    answer["result"] = RESULTS[method]
                else:
                    answer["error"] = {"code": -32601, "message": "Method not found"}
                streams[-1].write(f"event: message\ndata: {json.dumps(answer)}\n\n".encode())
        except (OSError, asyncio.IncompleteReadError):
            return  # the client has gone
        finally:
            writer.close()

    sockets = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}/sse"
    connection = connect(server_entry("old", command=None, args=(), server_type="sse", url=url))
    try:
        await connection.ready()
        failures: list[Exception] = []
        async with asyncio.timeout(60):
            while True:
                try:
                    assert (await connection.tools()).tools == ()
                    break
                except RequestFailed as error:
                    failures.append(error)
                    # What fails at once lets nobody else run, the limit of time included.
                    await asyncio.sleep(0.05)
        assert failures
        assert connection.restarts == 1
    finally:
        await connection.close()
        sockets.close()
