"""What can go wrong between AOS and an MCP server."""

from __future__ import annotations

from aos.errors import AosError, TransientError


class ServerNotConfigured(AosError):
    """The server's entry cannot be carried out here: a missing secret or program, a transport that is not offered."""

    code = "not_configured"
    title = "The MCP server is not configured for this host."


class ServerUnavailable(TransientError):
    """The server does not run, or is too busy. The request was not sent."""

    title = "The MCP server is unavailable."


class ServerDied(TransientError):
    """The server went away while it worked on the request: whether it took effect is unknown."""

    title = "The MCP server died during the request."


class ToolTimeout(TransientError):
    """The server did not answer in time: whether the request took effect is unknown. The session goes on."""

    code = "timeout"
    title = "The MCP server did not answer in time."


class ServerRefused(AosError):
    """The server answered with a protocol error.

    Attributes:
        rpc_code: The JSON-RPC error code.
    """

    code = "server_refused"
    title = "The MCP server refused the request."

    def __init__(self, detail: str, rpc_code: int) -> None:
        super().__init__(detail)
        self.rpc_code = rpc_code


class ServerReplyInvalid(AosError):
    """The server answered with something that MCP, or the tool's own output schema, does not allow."""

    code = "server_reply_invalid"
    title = "The MCP server's answer is not valid."
