"""A server as a child process: messages are lines of JSON on its standard input and output.

MCP specification 2025-11-25, transports, stdio, and lifecycle, shutdown. The SDK's own client of this transport neither
bounds a line nor keeps what it cannot parse out of the log, where a secret might be in it; and it does not let us see
the process. The session over it is the SDK's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from aos.mcp.errors import TOO_LARGE
from aos.mcp.link import Link

if TYPE_CHECKING:
    from anyio.abc import ObjectReceiveStream, ObjectSendStream
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

log = logging.getLogger("aos.mcp")

GUARD = Path(__file__).with_name("die_with_parent.py")
END_SECONDS = 2.0
"""For the server to end by itself when its input does; then again after SIGTERM."""
LOOK_EVERY = 0.01
FLUSH_SECONDS = 0.5

_RESPONSE_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*([0-9]{1,18})\s*,')
"""The id in the first bytes of a response, as servers write it."""


@asynccontextmanager
async def stdio_streams(
    command: Sequence[str], environment: Mapping[str, str], stderr: TextIO, link: Link, *, largest: int, garbage: int
) -> AsyncIterator[TransportStreams]:
    """Runs a server and yields the streams of its messages; leaving ends it and its own children.

    Args:
        environment: All of it.
        stderr: Closed here once the server has it.
        largest: Bytes of a message from the server. The call that a longer one answers fails; the session goes on.
        garbage: Lines in a row that are not MCP after which the connection is ended.
    """
    import anyio

    transport, process = await _start(command, environment, stderr, largest)
    to_session, from_server = anyio.create_memory_object_stream["SessionMessage | Exception"](0)
    to_server, from_session = anyio.create_memory_object_stream["SessionMessage"](0)
    reading = asyncio.create_task(_read(process, to_session, link, largest, garbage), name="output of an MCP server")
    writing = asyncio.create_task(_write(process, from_session, link), name="input of an MCP server")
    try:
        yield from_server, to_server
    finally:
        to_server.close()
        from_server.close()
        await asyncio.wait({writing}, timeout=FLUSH_SECONDS)
        try:
            await _end(process)
        finally:
            # Also when this is cancelled: nothing of the server may stay.
            _kill(process)
            reading.cancel()
            writing.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            transport.close()


async def _start(
    command: Sequence[str], environment: Mapping[str, str], stderr: TextIO, largest: int
) -> tuple[asyncio.SubprocessTransport, Process]:
    loop = asyncio.get_running_loop()
    guard = (sys.executable, "-I", "-S", str(GUARD), str(os.getpid())) if sys.platform == "linux" else ()
    transport, protocol = await loop.subprocess_exec(
        lambda: SubprocessStreamProtocol(limit=largest, loop=loop),
        *guard,
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        env=dict(environment),
        # A group of its own, so that its children can be ended with it.
        start_new_session=True,
    )
    stderr.close()
    return transport, Process(transport, protocol, loop)


async def _read(
    process: Process,
    to_session: ObjectSendStream[SessionMessage | Exception],
    link: Link,
    largest: int,
    garbage: int,
) -> None:
    import anyio

    assert process.stdout is not None  # noqa: S101 - started with a pipe
    try:
        async with to_session:
            while not link.ended.is_set():
                try:
                    line = await process.stdout.readuntil()
                except asyncio.LimitOverrunError:
                    message = await _skip_line(process.stdout, largest)
                else:
                    message = _parsed(line)
                link.take(message, garbage)
                if not isinstance(message, Exception):
                    await to_session.send(message)
    except asyncio.IncompleteReadError:
        link.end("it closed its output")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        # The session was closed from our side.
        link.end()
    except OSError as error:
        link.end(f"its output cannot be read: {error.strerror}")


def _parsed(line: bytes) -> SessionMessage | Exception:
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter
    from pydantic import ValidationError

    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValidationError as error:
        return error


async def _skip_line(stdout: asyncio.StreamReader, largest: int) -> SessionMessage | Exception:
    """Drops a line that is too long; returns the failure of the request that it answers."""
    from mcp.shared.message import SessionMessage
    from mcp.types import ErrorData, JSONRPCError

    head = await stdout.readexactly(256)
    while True:
        try:
            await stdout.readuntil()
            break
        except asyncio.LimitOverrunError as error:
            await stdout.readexactly(error.consumed)
    why = f"its answer has more than {largest} bytes"
    found = _RESPONSE_ID.match(head)
    if found is None:
        return ValueError(why)
    error_data = ErrorData(code=TOO_LARGE, message=why)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error_data))


async def _write(process: Process, from_session: ObjectReceiveStream[SessionMessage], link: Link) -> None:
    assert process.stdin is not None  # noqa: S101 - started with a pipe
    try:
        async with from_session:
            async for message in from_session:
                process.stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await process.stdin.drain()
    except OSError:
        link.end("it closed its input")


async def _end(process: Process) -> None:
    """Closes its input, waits, and insists."""
    assert process.stdin is not None  # noqa: S101 - started with a pipe
    process.stdin.close()
    if await _ended(process):
        return
    _signal_group(process, signal.SIGTERM)
    await _ended(process)


async def _ended(process: Process) -> bool:
    # Not `process.wait()`: it waits also for pipes that a grandchild may hold.
    deadline = asyncio.get_running_loop().time() + END_SECONDS
    while process.returncode is None:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(LOOK_EVERY)
    return True


def _kill(process: Process) -> None:
    """Ends what is left of its group: itself, or children that it left behind."""
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
