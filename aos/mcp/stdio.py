"""A server as a child process: messages are lines of JSON on its standard input and output.

MCP specification 2025-11-25, transports, stdio, and lifecycle, shutdown. The SDK's own client of this transport neither
bounds a line nor keeps what it cannot parse out of the log, where a secret might be in it; and it does not let us see
the process. The session over it is the SDK's; calls of tools have a shorter way beside it (`aos.mcp.piped`).
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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from aos.mcp.errors import TOO_LARGE, UNREADABLE
from aos.mcp.link import Link

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

    from aos.mcp.piped import PipedCalls

log = logging.getLogger("aos.mcp")

GUARD = Path(__file__).with_name("die_with_parent.py")
END_SECONDS = 2.0
"""For the server to end by itself when its input does; then again after SIGTERM."""
LOOK_EVERY = 0.01

_VERSION = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_ID = rb'"id"\s*:\s*([0-9]{1,18})\s*'
_ID_FIRST = re.compile(rb"\s*\{\s*" + _VERSION + _ID + rb',\s*"(?:result|error)"')
_ID_ELSEWHERE = re.compile(rb"\s*\{\s*" + _VERSION + rb'"(?:result|error)"')
_ID_LAST = re.compile(rb",\s*" + _VERSION + _ID + rb"\}\s*$")
"""The ends of a response, as servers write it: those made with MCP's SDK for TypeScript have the id last."""
_END = 256
"""Bytes of either end that are looked at."""


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
    from aos.mcp.piped import PipedCalls

    transport, protocol, process = await _start(command, environment, stderr, largest)
    assert process.stdin is not None  # noqa: S101 - started with a pipe
    link.calls = calls = PipedCalls(process.stdin, link)
    protocol.answers = calls.answers
    output, input_ = _Output(process, link, calls, largest, garbage), _Input(process, link)
    try:
        yield output, input_
    finally:
        input_.closed = True
        try:
            await _end(process)
        finally:
            # Also when this is cancelled: nothing of the server may stay.
            _kill(process)
            transport.close()


async def _start(
    command: Sequence[str], environment: Mapping[str, str], stderr: TextIO, largest: int
) -> tuple[asyncio.SubprocessTransport, _Protocol, Process]:
    loop = asyncio.get_running_loop()
    guard = (sys.executable, "-I", "-S", str(GUARD), str(os.getpid())) if sys.platform == "linux" else ()
    transport, protocol = await loop.subprocess_exec(
        lambda: _Protocol(limit=largest, loop=loop),
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
    return transport, protocol, Process(transport, protocol, loop)


class _Protocol(SubprocessStreamProtocol):
    """Offers a line that comes in one piece to the calls that wait for an answer; all else is read as a stream.

    Attributes:
        answers: Whether a line answers a call, which has it then.
    """

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.answers: Callable[[bytes], bool] | None = None
        self._limit = limit
        self._between_lines = True

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if isinstance(data, bytes):  # no text is asked for
            whole = self._between_lines and len(data) <= self._limit and data.find(b"\n") == len(data) - 1
            if whole and self.answers is not None and self.answers(data):
                return
            self._between_lines = data.endswith(b"\n")
        super().pipe_data_received(fd, data)


class _Stream:
    """What both streams have of `mcp.client.Transport`; the process is closed by whoever started it."""

    async def aclose(self) -> None:
        """Nothing is left to be closed."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Output(_Stream):
    """The messages of the server, read and parsed by the session's own task: each hop to another one would take time.

    The answers of calls that are made beside the session do not reach it. Ends with the server's output, or with the
    link; what is not MCP is counted and left out.
    """

    def __init__(self, process: Process, link: Link, calls: PipedCalls, largest: int, garbage: int) -> None:
        from mcp.types import jsonrpc_message_adapter

        assert process.stdout is not None  # noqa: S101 - started with a pipe
        self._stdout = process.stdout
        self._link = link
        self._calls = calls
        self._largest = largest
        self._garbage = garbage
        self._messages = jsonrpc_message_adapter

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        while not self._link.ended.is_set():
            try:
                message = await self._next()
            except asyncio.IncompleteReadError:
                self._link.end("it closed its output")
            except OSError as error:
                self._link.end(f"its output cannot be read: {error.strerror}")
            else:
                self._link.take(message, self._garbage)
                if not isinstance(message, Exception) and not self._calls.take(message.message):
                    return message
        raise StopAsyncIteration

    async def receive(self) -> SessionMessage | Exception:
        import anyio

        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    async def _next(self) -> SessionMessage | Exception:
        from mcp.shared.message import SessionMessage
        from pydantic import ValidationError

        try:
            line = await self._stdout.readuntil()
        except asyncio.LimitOverrunError:
            return await _skip_line(self._stdout, self._largest)
        try:
            return SessionMessage(self._messages.validate_json(line, by_name=False))
        except ValidationError as error:
            return _failure(line[:_END], line[-_END:], UNREADABLE, "it cannot be read") or error


class _Input(_Stream):
    """Messages to the server; a send waits while the server does not read."""

    def __init__(self, process: Process, link: Link) -> None:
        assert process.stdin is not None  # noqa: S101 - started with a pipe
        self._stdin = process.stdin
        self._link = link
        self.closed = False

    async def send(self, item: SessionMessage) -> None:
        import anyio

        if self.closed:
            raise anyio.ClosedResourceError
        try:
            self._stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await self._stdin.drain()
        except OSError as error:
            self._link.end("it closed its input")
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        self.closed = True


async def _skip_line(stdout: asyncio.StreamReader, largest: int) -> SessionMessage | Exception:
    """Drops a line that is too long; returns the failure of the request that it answers."""
    head = tail = await stdout.readexactly(_END)
    while True:
        try:
            tail = (tail + await stdout.readuntil())[-_END:]
            break
        except asyncio.LimitOverrunError as error:
            tail = (tail + await stdout.readexactly(error.consumed))[-_END:]
    why = f"its answer has more than {largest} bytes"
    return _failure(head, tail, TOO_LARGE, why) or ValueError(why)


def _failure(head: bytes, tail: bytes, code: int, why: str) -> SessionMessage | None:
    """The failure of the request that a line answers which is of no use; None if that is not to be seen."""
    from mcp.shared.message import SessionMessage
    from mcp.types import ErrorData, JSONRPCError

    found = _ID_FIRST.match(head) or (_ID_ELSEWHERE.match(head) and _ID_LAST.search(tail))
    if not found:
        return None
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=ErrorData(code=code, message=why)))


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
