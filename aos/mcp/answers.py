"""The answers of the MCP side: what they say, and where they go."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from pydantic import ValidationError

from aos.errors import TransientError, UnknownEntity
from aos.kernel.types import ReplyAddress
from aos.mcp.errors import AnswerTooLarge, ParamsInvalid, RequestFailed
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import (
    MCP_RESPONSES,
    EnvelopeInvalid,
    ToolError,
    ToolRequest,
    ToolResponse,
    ToolResponseBody,
)
from aos.messaging.incoming import Incoming, short_id
from aos.messaging.replies import reply_address, undeliverable

log = logging.getLogger("aos.mcp")


def answer(request: ToolRequest, body: ToolResponseBody) -> bytes:
    """The body of the message that answers a request."""
    response = ToolResponse(request_id=request.request_id, server_id=request.server_id, response=body)
    return response.model_dump_json(exclude_none=True).encode()


def failure(request: ToolRequest, error: RequestFailed) -> bytes:
    """The body of the message that says why a request was not carried out."""
    told = {"code": error.code, "message": error.detail, "retryable": isinstance(error, TransientError)}
    return answer(request, ToolResponseBody(error=ToolError.model_validate(told)))


class Answers:
    """Sends answers.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(self, send: Callable[[Sequence[Outbound]], Awaitable[None]], claim_check: ClaimCheck) -> None:
        self._send = send
        self._claim_check = claim_check

    async def send(self, request: ToolRequest, body: bytes, address: ReplyAddress | None) -> None:
        """Sends an answer where its request wants it, else to `mcp-responses`.

        Sent twice, it carries the same id. An answer to an address that does not exist is parked.
        """
        target = address or ReplyAddress(MCP_RESPONSES)
        message = Outbound(
            target.entity,
            body,
            short_id(f"{request.request_id}.response"),
            correlation_id=short_id(target.correlation_id or request.request_id),
            session_id=target.session_id,
            subject=request.server_id,
        )
        try:
            message = await self.packed(message)
        except EnvelopeInvalid as error:
            message = replace(message, body=failure(request, AnswerTooLarge(error.detail)))
        try:
            await self._send([message])
        except UnknownEntity as error:
            if address is None:
                raise
            log.warning("answer to %s parked: %s", request.request_id, error.detail)
            await self._send([undeliverable(message, error.detail)])

    async def refuse(self, incoming: Incoming, error: EnvelopeInvalid) -> None:
        """Tells the sender of a body that is no request, if it can be found out which answer it waits for."""
        try:
            raw = json.loads(incoming.body)
            request = ToolRequest(
                request_id=raw["request_id"], server_id=raw.get("server_id") or "-", method="call_tool"
            )
            address = reply_address(
                incoming.reply_to, incoming.correlation_id, incoming.message_id, incoming.reply_to_session_id
            )
        except (ValueError, TypeError, KeyError, AttributeError, ValidationError, EnvelopeInvalid):
            return
        await self.send(request, failure(request, ParamsInvalid(error.detail)), address)

    async def packed(self, message: Outbound) -> Outbound:
        """The message with its body by reference, if it is long.

        Raises:
            EnvelopeInvalid: It is long and there is no storage account.
        """
        body = await self._claim_check.pack(message.body, "messages")
        return message if body is message.body else replace(message, body=body)
