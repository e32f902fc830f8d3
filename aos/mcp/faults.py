"""What became of a request that an MCP server did not answer as it should, as an error of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aos.mcp.errors import (
    TOO_LARGE,
    UNREADABLE,
    RequestFailed,
    ServerDied,
    ServerNotConfigured,
    ServerRefused,
    ServerReplyInvalid,
    ServerReplyTooLarge,
    ServerUnavailable,
    ToolTimeout,
)
from aos.mcp.link import Attempt, Link

if TYPE_CHECKING:
    from mcp import MCPError

CLOSED = "Connection closed"
"""What the SDK says with its code CONNECTION_CLOSED of requests whose session is over."""
SAID_TOO_MUCH = ("the answer has more than", "Server-sent event exceeded the")
"""How the SDK passes on that a bound on a body, or on an event, was met."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a server.

    Attributes:
        what: It is for, in words: `tool get_kpis`.
        largest: Bytes that an answer may have.
    """

    server_id: str
    what: str
    link: Link
    attempt: Attempt
    largest: int

    @property
    def _server(self) -> str:
        return f"MCP server {self.server_id}"

    def failed(self, error: Exception) -> RequestFailed | None:
        """What the SDK raised, as an error of ours; None if it is no fault of a server."""
        from mcp import MCPError
        from pydantic import ValidationError

        match error:
            case MCPError():
                return self._refused(error)
            case ValidationError():
                return ServerReplyInvalid(f"{self._server} answered {self.what} with something that is not MCP.")
            case RuntimeError() if self.link.ended.is_set():
                return self.died()
            case RuntimeError():
                # The SDK compares structured content with the tool's output schema, and bounds rounds of questions.
                said = self._masked(error)
                return ServerReplyInvalid(f"{self._server} gave no valid answer to {self.what}: {said}")
        return None

    def late(self, seconds: float) -> ToolTimeout:
        """There was no answer in time."""
        return ToolTimeout(f"{self._server} did not answer {self.what} within {seconds:g} s.")

    def died(self) -> RequestFailed:
        """The connection ended before the answer."""
        if self.attempt.unsent:
            return ServerUnavailable(f"{self._server} cannot be reached; {self.what} was not sent.")
        why = f": {self.link.reason}" if self.link.reason else ""
        return ServerDied(f"{self._server} died while it worked on {self.what}{why}.")

    def _refused(self, error: MCPError) -> RequestFailed:
        """What an error of the protocol, or of HTTP below it, means for the request."""
        from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST, PARSE_ERROR, REQUEST_TIMEOUT

        if error.code == TOO_LARGE or any(said in error.message for said in SAID_TOO_MUCH):
            return ServerReplyTooLarge(
                f"{self._server} answered {self.what} with more than metadata.limits.message_bytes, which is "
                f"{self.largest}: ask it for less at once."
            )
        if error.code == CONNECTION_CLOSED and not self._said_by_server(error):
            return self.died()
        if error.code == REQUEST_TIMEOUT:
            return ToolTimeout(f"{self._server} did not answer {self.what} in time.")
        if (refused := refused_by_http(self._server, self.attempt)) is not None:
            return refused
        if self.attempt.status == 404 and error.code == INVALID_REQUEST:
            # The server was restarted, or forgot us: the request was not carried out, and the next needs a session.
            self.link.end("it does not know the session any more")
            return ServerUnavailable(f"{self._server} does not know the session any more; a new one is opened.")
        if error.code == UNREADABLE or (error.code == PARSE_ERROR and self.attempt.status is not None):
            return ServerReplyInvalid(f"{self._server} answered {self.what} with something that is not MCP.")
        return ServerRefused(f"{self._server} refused {self.what}: {self._masked(error.message)}", error.code)

    def _said_by_server(self, error: MCPError) -> bool:
        """Whether CONNECTION_CLOSED is an answer: servers use the same code, as JSON-RPC 2.0 section 5.1 lets them.

        Over a pipe only: what the SDK says of HTTP in this way has many texts.
        """
        return self.link.calls is not None and not self.link.ended.is_set() and error.message != CLOSED

    def _masked(self, text: object) -> str:
        return self.link.mask(str(text))[:500]


def refused_by_http(server: str, attempt: Attempt) -> RequestFailed | None:
    """What the status of the HTTP response says by itself (RFC 9110 section 15)."""
    match attempt.status:
        case 401 | 403:
            return ServerNotConfigured(f"{server} refuses our credentials (HTTP {attempt.status}): see its headers.")
        case 503 if not attempt.later:
            # Envoy, as in front of Azure Container Apps, says so also of a server that broke off while it worked.
            return ServerDied(f"{server} did not answer, or a proxy before it lost the answer (HTTP {attempt.status}).")
        case 429 | 503:
            return ServerUnavailable(f"{server} takes no requests at the moment (HTTP {attempt.status}).")
        case 502 | 504:
            return ServerDied(f"{server} did not answer the gateway before it (HTTP {attempt.status}).")
    return None
