"""What the transport of a server knows of its connection, for the task that owns the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client._transport import ReadStream
    from mcp.shared.message import SessionMessage
    from mcp.types import CallToolResult


@dataclass(slots=True)
class Attempt:
    """What became of one request of ours on its way.

    Attributes:
        unsent: No connection to the server could be made, so that it knows nothing of the request.
        status: The status of the HTTP response.
        later: The response says when to come again, which a server does that did not begin.
    """

    unsent: bool = False
    status: int | None = None
    later: bool = False


ATTEMPT: ContextVar[Attempt | None] = ContextVar("aos_mcp_attempt", default=None)
"""The request on behalf of which something is sent; the SDK's tasks inherit it from the caller."""


class ToolCaller(Protocol):
    """A shorter way of calls than through the session, which some transports have."""

    async def call_tool(self, client: Client, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """As `client.call_tool(name, arguments)`."""
        ...


class Link:
    """The other side of one connection.

    Attributes:
        ended: Is set when the connection is over.
        reason: Why, where that is known: `it closed its output`.
        heard: How many messages came from the server.
        garbage: How much came since the last message that is not MCP.
        mask: Takes the secrets of the server's entry out of a text.
        on_end: Are called when the connection is over.
        calls: The short way of calls to tools, where the transport has one.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.reason: str | None = None
        self.heard = 0
        self.garbage = 0
        self.mask: Callable[[str], str] = str
        self.on_end: set[Callable[[], None]] = set()
        self.calls: ToolCaller | None = None

    def end(self, reason: str | None = None) -> None:
        """The connection is over; the first reason counts."""
        self.reason = self.reason or reason
        if not self.ended.is_set():
            self.ended.set()
            for tell in tuple(self.on_end):
                tell()

    def hear(self) -> None:
        """Notes that a message came."""
        self.heard += 1
        self.garbage = 0

    def take(self, message: SessionMessage | Exception, most_garbage: int) -> None:
        """Notes what came; too much in a row that is not MCP ends the connection."""
        if not isinstance(message, Exception):
            self.hear()
            return
        self.garbage += 1
        if self.garbage >= most_garbage:
            self.end(f"it sent {self.garbage} messages in a row that are not MCP")


class WatchedStream:
    """A read stream that tells its link what comes, and when it ends."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception], link: Link, most_garbage: int) -> None:
        self._stream = stream
        self._link = link
        self._most_garbage = most_garbage

    async def receive(self) -> SessionMessage | Exception:
        message = await self._stream.receive()
        self._link.take(message, self._most_garbage)
        return message

    async def aclose(self) -> None:
        self._link.end()
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            message = await self._stream.__anext__()
        except BaseException:
            # The end of the iteration, or of the stream in another way.
            self._link.end()
            raise
        self._link.take(message, self._most_garbage)
        return message

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._link.end()
        return await self._stream.__aexit__(kind, error, trace)
