"""Where effects of the kernel leave the process: tool calls, replies and wake-ups become bus messages."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from aos.errors import UnknownEntity
from aos.kernel.types import ConversationKey, Operation, Outgoing, ReplyAddress, SendReply
from aos.mcp.bridge import tool_request
from aos.messaging.bus import Outbound
from aos.messaging.claim_check import ClaimCheck
from aos.messaging.envelopes import AGENT_COMMANDS
from aos.messaging.replies import agent_reply, parked_turn, undeliverable
from aos.messaging.requests import AGENT_RESPONSE, answer
from aos.telemetry.places import TRACEPARENT, traceparent_of
from aos.views import operation_view

log = logging.getLogger("aos.outlet")


class BusOutlet:
    """`aos.kernel.ports.Outlet` on Service Bus.

    Args:
        send: Puts messages on the bus.
    """

    def __init__(self, send: Callable[[Sequence[Outbound]], Awaitable[None]], claim_check: ClaimCheck) -> None:
        self._send = send
        self._claim_check = claim_check

    async def send(self, key: ConversationKey, effects: Sequence[Outgoing]) -> None:
        requests = [tool_request(effect) for effect in effects if effect.kind == "tool"]
        if requests:
            await self._send([await self._packed(request) for request in requests])
        for effect in effects:
            if effect.kind == "reply":
                await self._reply(effect)
            elif effect.kind == "park":
                await self._send([_placed(parked_turn(effect), effect.operation)])

    async def wake(self, key: ConversationKey, delay: float) -> None:
        params = {"agent_id": key.agent_id, "conversation_id": key.conversation_id}
        body = json.dumps({"command": "resume", "params": params}).encode()
        await self._send([Outbound(AGENT_COMMANDS, body, f"resume.{uuid.uuid4().hex}", delay=delay)])

    async def _reply(self, effect: SendReply) -> None:
        operation = effect.operation
        if operation.reply_to is None:
            return
        address = operation.reply_to
        if address.workflow:
            await self._send([workflow_news(operation, address)])
            return
        reply = await self._packed(
            query_reply(operation, address) if address.requester else agent_reply(operation, address)
        )
        reply = _placed(reply, operation)
        try:
            await self._send([reply])
        except UnknownEntity as error:
            # The operation has ended all the same; an operator can send the reply on.
            log.warning("reply of %s parked: %s", operation.operation_id, error.detail)
            await self._send([undeliverable(reply, error.detail)])

    async def _packed(self, message: Outbound) -> Outbound:
        body = await self._claim_check.pack(message.body, "messages")
        return message if body is message.body else replace(message, body=body)


def _placed(message: Outbound, operation: Operation) -> Outbound:
    """The message with the trace of the operation that it belongs to; another turn may be in work by now."""
    if not operation.trace:
        return message
    return replace(message, properties={**message.properties, TRACEPARENT: traceparent_of(operation.trace)})


def workflow_news(operation: Operation, address: ReplyAddress) -> Outbound:
    """The command that has a workflow look at a step that ended."""
    body = json.dumps({"command": "advance", "params": {"workflow_id": address.workflow}}).encode()
    return Outbound(address.entity, body, f"{operation.operation_id}.{operation.attempt}.reply")


def query_reply(operation: Operation, address: ReplyAddress) -> Outbound:
    """The envelope that tells how an `aos.agent.query` ended: the body of the HTTP answer, and `response`."""
    payload = operation_view(operation) | {"response": operation.reply}
    message_id = f"{operation.operation_id}.{operation.attempt}.reply"
    return answer(address, message_id, AGENT_RESPONSE, payload, operation.updated_at)
