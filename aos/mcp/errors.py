"""What can go wrong between a request and the tool that it asks for."""

from __future__ import annotations

from aos.errors import AosError, TransientError

TOO_LARGE = -32099
"""JSON-RPC code with which a transport of ours answers for a server that said too much (2.0 section 5.1, server
errors)."""
UNREADABLE = -32098
"""JSON-RPC code with which a transport of ours answers for a server whose answer is not MCP."""


class RequestFailed(AosError):
    """Base of the errors that the sender of a request is told.

    `code` is one of `aos.messaging.envelopes.ToolErrorCode`; an error that is also a `TransientError` is retryable.
    """


class UnknownServer(RequestFailed):
    code = "unknown_server"
    title = "No MCP server has this id or name."


class UnknownTool(RequestFailed):
    code = "unknown_tool"
    title = "The MCP server has no tool of this name."


class ParamsInvalid(RequestFailed):
    """The detail names each fault by JSON pointer."""

    code = "invalid_params"
    title = "The params of the request are not valid."


class RequestIdReused(RequestFailed):
    code = "request_id_reused"
    title = "The request_id was used before with other params."


class OutcomeUnknown(RequestFailed):
    """The tool may have run, or run in part; as it is not said to be repeatable, it is not run again."""

    code = "outcome_unknown"
    title = "Whether the tool took effect is unknown."


class AnswerTooLarge(RequestFailed):
    code = "too_large"
    title = "The tool's answer is too large to be sent."


class SchemaUnusable(RequestFailed):
    """The tool's schema is not valid, or needs something from elsewhere, which is never fetched."""

    code = "not_configured"
    title = "The tool's input schema cannot be used."


class ToolChanged(RequestFailed):
    """The server lists another definition than the one that was approved."""

    code = "not_configured"
    title = "The tool's definition has changed and is not approved."


class LockInvalid(RequestFailed):
    """The approved definitions cannot be read, so that no tool is known to be the one that was approved."""

    code = "not_configured"
    title = "The lock of approved tool definitions is not valid."


class ServerNotConfigured(RequestFailed):
    """The server's entry cannot be carried out here: a missing secret or program, a transport that is not offered."""

    code = "not_configured"
    title = "The MCP server is not configured for this host."


class ServerOff(RequestFailed):
    """Somebody switched the server off, in the registry or by a command."""

    code = "unavailable"
    title = "The MCP server is switched off."


class ServerUnavailable(RequestFailed, TransientError):
    """The server does not run, or is too busy. The request was not sent."""

    code = "unavailable"
    title = "The MCP server is unavailable."


class ServerBusy(ServerUnavailable):
    """The server works on as many requests as it may, and as many wait: it is well. The request was not sent."""

    title = "The MCP server has no turn for another call."


class ServerDied(RequestFailed, TransientError):
    """The server went away while it worked on the request: whether it took effect is unknown."""

    code = "unavailable"
    title = "The MCP server died during the request."


class ToolTimeout(RequestFailed, TransientError):
    """The server did not answer in time: whether the request took effect is unknown. The session goes on."""

    code = "timeout"
    title = "The MCP server did not answer in time."


class ServerReplyInvalid(RequestFailed):
    """The server answered with something that MCP, or the tool's own output schema, does not allow."""

    code = "unavailable"
    title = "The MCP server's answer is not valid."


class ServerReplyTooLarge(ServerReplyInvalid):
    """The answer is longer than the server's `metadata.limits.message_bytes`."""

    code = "too_large"
    title = "The MCP server's answer is too large."


class ServerRefused(RequestFailed):
    """The server answered with a protocol error.

    Attributes:
        rpc_code: The JSON-RPC error code.
    """

    code = "unavailable"
    title = "The MCP server refused the request."

    def __init__(self, detail: str, rpc_code: int) -> None:
        # -32602 invalid params (JSON-RPC 2.0 section 5.1), -32002 resource not found (MCP, resources).
        super().__init__(detail, code="invalid_params" if rpc_code in (-32602, -32002) else None)
        self.rpc_code = rpc_code


class NotTakingRequests(TransientError):
    """This process cannot take requests now: it is shutting down, or has no registry yet. Another one may."""

    title = "The MCP side takes no requests at the moment."
