"""Tool calls on the pipe of a session, beside it: what the session's machinery costs, a trivial tool does not.

The SDK's session shakes hands, lists, pings and answers what the server asks. A call of a tool in the protocols with a
handshake (up to 2025-11-25) is one message and its answer, matched by id (JSON-RPC 2.0 section 5; MCP specification
2025-11-25, base protocol, requests). It is checked with the SDK's models, like the session's. The newer protocol has
more to it and stays with the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.propagate import inject
from pydantic_core import to_json

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import JSONRPCMessage

METHOD = "tools/call"
FIRST_ID, LAST_ID = 1_000_000_000, 2_147_483_647
"""Ids of the lane: the session counts from 1, and some servers keep ids in 32 bits."""


class Lane:
    """Requests of ours on a pipe that a session uses, too.

    Args:
        send: Writes a line; waits while the server does not read.
        post: Writes a line at once.
    """

    def __init__(self, send: Callable[[bytes], Awaitable[None]], post: Callable[[bytes], None]) -> None:
        self._send = send
        self._post = post
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next = FIRST_ID

    @staticmethod
    def serves(client: Client) -> bool:
        """Whether calls of this session can go beside it."""
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        return client.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS

    async def call_tool(self, client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Calls a tool; its CallToolResult in wire form.

        Raises:
            MCPError: The server answered with an error, or the connection ended.
            pydantic.ValidationError: The answer is not what the protocol of the session says.
            RuntimeError: Its structured content is not what the tool's output schema says.
        """
        from mcp.types import CallToolResult
        from mcp_types.methods import validate_server_result

        params: dict[str, Any] = {"name": name, "arguments": arguments}
        carrier: dict[str, str] = {}
        inject(carrier)
        if carrier:
            params["_meta"] = carrier
        answer = await self._request(params)
        validate_server_result(METHOD, client.protocol_version, answer)
        result = CallToolResult.model_validate(answer, by_name=False)
        if not result.is_error:
            await client.session.validate_tool_result(name, result)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    def take(self, message: JSONRPCMessage) -> bool:
        """Whether a message of the server is an answer to the lane; one that nobody waits for any more is dropped."""
        from mcp import MCPError
        from mcp.types import JSONRPCError, JSONRPCResponse

        if not isinstance(message, JSONRPCResponse | JSONRPCError) or message.id is None:
            return False
        try:
            # As the session does it: some servers give numbers back as text.
            request_id = int(message.id)
        except ValueError:
            return False
        if request_id < FIRST_ID:
            return False
        waiting = self._waiting.get(request_id)
        if waiting is not None and not waiting.done():
            if isinstance(message, JSONRPCResponse):
                waiting.set_result(message.result)
            else:
                error = message.error
                waiting.set_exception(MCPError(code=error.code, message=error.message, data=error.data))
        return True

    def close(self) -> None:
        """The connection is over: nobody will be answered."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(MCPError(code=CONNECTION_CLOSED, message="Connection closed"))

    async def _request(self, params: dict[str, Any]) -> dict[str, Any]:
        import anyio
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        request_id = self._next
        self._next = FIRST_ID if request_id == LAST_ID else request_id + 1
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = waiting
        request = {"jsonrpc": "2.0", "id": request_id, "method": METHOD, "params": params}
        try:
            await self._send(to_json(request) + b"\n")
            return await waiting
        except asyncio.CancelledError:
            # Nobody waits for it any more, so that the server need not go on (MCP specification, cancellation).
            told = {"requestId": request_id, "reason": "nobody waits for it any more"}
            self._post(to_json({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": told}) + b"\n")
            raise
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise MCPError(code=CONNECTION_CLOSED, message="Connection closed") from None
        finally:
            del self._waiting[request_id]
            if not waiting.cancel() and not waiting.cancelled():
                waiting.exception()  # retrieved, also if it came too late
