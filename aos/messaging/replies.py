"""Answers to bus messages, and messages that can never succeed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from aos.kernel.delegation import children
from aos.kernel.types import Operation, Park, ReplyAddress
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import OWN_ENTITIES, POISON, AgentReply, EnvelopeInvalid
from aos.messaging.incoming import REPLAY, as_reason, short_id

_ENTITY = re.compile(r"(?!.*(//|(^|/)\.{1,2}(/|$)))[A-Za-z0-9._/~-]{1,260}")
"""What Service Bus takes as the name of a queue or topic. In an address more would mean something: behind `?` and `#`
nothing counts, so that `agent-events?` is `agent-events`."""


def reply_address(
    reply_to: str | None, correlation_id: str | None, message_id: str | None, session_id: str | None
) -> ReplyAddress | None:
    """Where the answer to a message goes: to its ReplyTo, with its CorrelationId or else its MessageId.

    Args:
        reply_to: A queue or topic of the namespace, or its URI.

    Raises:
        EnvelopeInvalid: ReplyTo names an entity of AOS, where the answer would come back as a request, or none at all.
    """
    if not reply_to:
        return None
    try:
        entity = (unquote(urlsplit(reply_to).path) if "://" in reply_to else reply_to).strip().strip("/")
    except ValueError:
        entity = ""
    if not _ENTITY.fullmatch(entity):
        raise EnvelopeInvalid("ReplyTo: names no queue or topic: up to 260 letters, digits and ._-~ between slashes.")
    if entity.lower() in OWN_ENTITIES:
        raise EnvelopeInvalid(f"ReplyTo: {entity!r} is an entity of AOS itself; name a queue or topic of your own.")
    return ReplyAddress(entity, correlation_id or message_id, session_id)


def agent_reply(operation: Operation, address: ReplyAddress) -> Outbound:
    """The message that tells how an operation ended. Sent twice, it carries the same id."""
    error = operation.error
    body = AgentReply(
        agent_id=operation.agent_id,
        event_type=operation.event_type,
        conversation_id=operation.conversation_id,
        operation_id=operation.operation_id,
        status=operation.status,
        response=operation.reply,
        usage={
            "input_tokens": operation.usage.input_tokens,
            "output_tokens": operation.usage.output_tokens,
            "total_tokens": operation.usage.total_tokens,
        },
        truncated=operation.truncated or None,
        error=None if error is None else {"code": error.code, "title": error.title, "detail": error.detail},
        generation=operation.generation or None,
        children=children(operation) or None,
    )
    return Outbound(
        entity=address.entity,
        body=body.model_dump_json(exclude_none=True).encode(),
        message_id=f"{operation.operation_id}.{operation.attempt}.reply",
        correlation_id=address.correlation_id,
        session_id=address.session_id,
        subject=operation.event_type or None,
    )


def error_reply(address: ReplyAddress, message_id: str, agent_id: str, code: str, title: str, detail: str) -> Outbound:
    """The answer to a message that was refused before it became an operation."""
    body = AgentReply(
        agent_id=agent_id,
        event_type="",
        conversation_id="",
        operation_id="",
        status="failed",
        error={"code": code, "title": title, "detail": detail},
    )
    return Outbound(
        entity=address.entity,
        body=body.model_dump_json(exclude_none=True).encode(),
        message_id=short_id(f"{message_id}.refused"),
        correlation_id=address.correlation_id,
        session_id=address.session_id,
    )


def parked(
    body: bytes,
    message_id: str,
    source: str,
    reason: str,
    description: str,
    more: Mapping[str, str | int] | None = None,
) -> Outbound:
    """A message for the queue `aos-poison`, where an operator lists and replays what can never succeed by itself."""
    return Outbound(
        entity=POISON,
        body=body,
        message_id=message_id,
        properties={
            "DeadLetterReason": reason,
            "DeadLetterErrorDescription": description[:4096],
            "aos-source": source,
            **(more or {}),
        },
    )


def undeliverable(reply: Outbound, detail: str) -> Outbound:
    """A reply whose entity does not exist, parked so that it can be sent on with all that its receiver goes by."""
    message = parked(reply.body, reply.message_id, reply.entity, "ReplyUndeliverable", detail)
    return replace(message, correlation_id=reply.correlation_id, session_id=reply.session_id)


def parked_turn(park: Park) -> Outbound:
    """The message of a turn that failed. Sent twice, it carries the same id."""
    operation, origin = park.operation, park.origin
    error = operation.error
    code, detail = ("failed", "") if error is None else (error.code, f"{error.title} {error.detail}")
    message = parked(
        origin.body.encode(),
        origin.message_id,
        origin.entity,
        as_reason(code),
        detail,
        {"aos-operation": operation.operation_id, REPLAY: operation.attempt},
    )
    return replace(
        message,
        correlation_id=origin.correlation_id,
        reply_to=origin.reply_to,
        reply_to_session_id=origin.reply_to_session_id,
        session_id=origin.session_id,
    )
