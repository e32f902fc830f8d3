"""Calls of tools over a pipe, matched to their answers here, beside the session of MCP's SDK on the same connection.

The session carries each message over two streams and through several tasks, which takes as long as the rest of a call.
Here a call is one line and one future. What is sent and what comes back is still made and checked by the SDK: by a
`ClientSession` over `PipedCalls`, which knows what the first one agreed with the server.
"""

from __future__ import annotations

import asyncio
from asyncio import Future, StreamWriter
from collections.abc import Mapping
from typing import Any, cast

from mcp import Client, ClientSession, MCPError
from mcp.shared.dispatcher import CallOptions, Dispatcher, coerce_request_id
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCResponse,
    jsonrpc_message_adapter,
)
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from aos.mcp.faults import CLOSED
from aos.mcp.link import Link
from aos.telemetry.tools import asking

FIRST_ID = 2**30
"""Of a request of ours: the session counts its own from 1 on. Still an integer, which any server takes as an id."""
NOBODY_WAITS = "nobody waits for it any more"
NO_INPUT = "It asks for input from a user or a model, which calls over the bus cannot give."
_RESULTS: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)


class PipedCalls:
    """Sends requests, and takes the messages that answer them; all calls fail when the connection is over.

    Args:
        stdin: Of the server.
        link: Of the connection.
    """

    def __init__(self, stdin: StreamWriter, link: Link) -> None:
        self._stdin = stdin
        self._link = link
        self._last_id = FIRST_ID
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._session: ClientSession | None = None
        link.on_end.add(self._end)

    async def call_tool(self, client: Client, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Calls a tool of the server of `client`, whose listing says what its results look like.

        Raises: As `mcp.Client.call_tool`.
        """
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        result = await self._typed(client).send_request(request, _RESULTS)
        if isinstance(result, InputRequiredResult):
            if result.input_requests:
                raise MCPError(code=INVALID_REQUEST, message=NO_INPUT)
            # It wants to be asked again with its state, as often as it takes.
            return await client.call_tool(name, arguments, request_state=result.request_state)
        if not result.is_error:
            await client.session.validate_tool_result(name, result)
        return result

    def answers(self, line: bytes) -> bool:
        """As `take`, for a line of the server as it comes: what cannot be read is none of the calls' business."""
        if not self._pending:
            return False
        try:
            message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError:
            return False
        if not self.take(message):
            return False
        self._link.hear()
        return True

    def take(self, message: JSONRPCMessage) -> bool:
        """Whether this message of the server answers a call that is made here."""
        if not self._pending or not isinstance(message, JSONRPCResponse | JSONRPCError) or message.id is None:
            return False
        waiting = self._pending.get(cast("int", coerce_request_id(message.id)))
        if waiting is None:
            return False
        if not waiting.done():
            if isinstance(message, JSONRPCResponse):
                waiting.set_result(message.result)
            else:
                error = message.error
                waiting.set_exception(MCPError(code=error.code, message=error.message, data=error.data))
        return True

    # --- the outgoing half of the SDK's `Dispatcher`, of which a session that is not entered needs no more

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Sends a request and waits for its answer; whoever gives up waiting tells the server so.

        Args:
            opts: Headers, which a pipe has no use for; time is bounded by the caller.

        Raises:
            MCPError: What the server answers; CONNECTION_CLOSED if the connection is over.
        """
        sent = dict(params or {})
        self._last_id += 1
        request_id = self._last_id
        with asking(method, request_id, sent):
            line = to_json({"jsonrpc": "2.0", "id": request_id, "method": method, "params": sent}, inf_nan_mode="null")
            answer: Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            self._pending[request_id] = answer
            try:
                await self._write(line)
                return await answer
            except asyncio.CancelledError:
                self._give_up(request_id)
                raise
            finally:
                del self._pending[request_id]
                if not answer.cancel() and not answer.cancelled():
                    # Else asyncio reports an error that came too late as one that nobody looked at.
                    answer.exception()

    async def _write(self, line: bytes) -> None:
        if self._link.ended.is_set():
            raise _closed()
        try:
            self._stdin.write(line + b"\n")
            await self._stdin.drain()
        except OSError:
            self._link.end("it closed its input")
            raise _closed() from None

    def _give_up(self, request_id: int) -> None:
        """MCP specification 2025-11-25, cancellation. Not waited for: this may be the end of everything."""
        if self._stdin.is_closing() or self._link.ended.is_set():
            return
        params = {"requestId": request_id, "reason": NOBODY_WAITS}
        self._stdin.write(to_json({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}) + b"\n")

    def _end(self) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(_closed())

    def _typed(self, client: Client) -> ClientSession:
        """A session that makes and checks messages as that of the client does, and sends them here."""
        if self._session is None:
            agreed = client.session.initialize_result or client.session.discover_result
            assert agreed is not None  # noqa: S101 - the client is entered
            self._session = ClientSession(dispatcher=cast("Dispatcher[Any]", self))
            self._session.adopt(agreed)
        return self._session


def _closed() -> MCPError:
    return MCPError(code=CONNECTION_CLOSED, message=CLOSED)
