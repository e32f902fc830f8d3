"""The envelope of queue `aos-requests`: what other applications ask of AOS as a whole, and what they are answered.

`{header: {message_id, correlation_id?, reply_to?, timestamp, source, target, message_type, priority, ttl_seconds},
payload}`, both ways. An answer goes to `reply_to`, else to the ReplyTo of the message, else to queue
`{source}-responses`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, field_validator

from aos.kernel.types import ReplyAddress
from aos.messaging.bus import Outbound
from aos.messaging.envelopes import CONVERSATION_ID, EnvelopeInvalid, parse_body
from aos.messaging.incoming import Incoming, short_id
from aos.messaging.replies import reply_address

AGENT_QUERY = "aos.agent.query"
AGENT_RESPONSE = "aos.agent.response"
WORKFLOW_RESULT = "aos.workflow.result"
ERROR = "aos.error"

LONGEST_TTL = 14 * 86400
"""Seconds; as long as a queue keeps a message."""


class Header(BaseModel):
    """Of a request, and of its answer.

    Attributes:
        message_id: The sender's; the same id again is the same request.
        timestamp: When it was sent; without an offset it is taken as UTC.
        source: The application that asks.
        priority: Carried for the receiver; requests are taken in the order in which they come.
        ttl_seconds: After which the request is not to be carried out any more; null: it does not expire.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    message_id: str = Field(min_length=1, max_length=128)
    correlation_id: str | None = Field(default=None, max_length=128)
    reply_to: str | None = Field(default=None, max_length=512)
    timestamp: datetime
    source: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    target: str = Field(default="aos", max_length=100)
    message_type: str = Field(min_length=1, max_length=128)
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    ttl_seconds: int | None = Field(default=300, ge=1, le=LONGEST_TTL)

    @field_validator("timestamp")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        try:
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("is no time between the years 1 and 9999 in UTC") from None

    def expired(self, now: float) -> bool:
        """Whether its time is over, at a time in seconds since the epoch."""
        if self.ttl_seconds is None:
            return False
        return datetime.fromtimestamp(now, UTC) - self.timestamp > timedelta(seconds=self.ttl_seconds)


class Envelope(BaseModel):
    """The body of a request, and of its answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    header: Header
    payload: dict[str, JsonValue] = {}


class _Payload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AgentQuery(_Payload):
    """`aos.agent.query`: something is said to an agent; without `conversation_id` in a new conversation.

    Without `agent_id` the agent is chosen whose purpose fits.
    """

    agent_id: str | None = Field(default=None, min_length=1, max_length=256)
    message: str = Field(
        validation_alias=AliasChoices("message", "query"), min_length=1, max_length=1_000_000, pattern=r"\S"
    )
    conversation_id: str | None = Field(default=None, pattern=CONVERSATION_ID)
    context: dict[str, JsonValue] | None = None


class AgentStatus(_Payload):
    """`aos.agent.status`."""

    agent_id: str = Field(min_length=1, max_length=256)


class WorkflowId(_Payload):
    """`aos.workflow.status` and `aos.workflow.cancel`."""

    workflow_id: str = Field(pattern=CONVERSATION_ID)


class McpCall(_Payload):
    """`aos.mcp.call`: a tool of an MCP server is called."""

    server_id: str = Field(validation_alias=AliasChoices("server_id", "server"), min_length=1, max_length=256)
    tool_name: str = Field(validation_alias=AliasChoices("tool_name", "method"), min_length=1, max_length=256)
    tool_params: dict[str, Any] = Field(default={}, validation_alias=AliasChoices("tool_params", "args"))


class StorageKey(_Payload):
    """`aos.storage.get` and `aos.storage.delete`; without `container` the first one that is shared."""

    container: str | None = Field(default=None, max_length=63)
    key: str = Field(min_length=1, max_length=512)


class StorageValue(StorageKey):
    """`aos.storage.set`. A string is kept as text, anything else as JSON."""

    value: JsonValue


class StorageList(_Payload):
    """`aos.storage.list`: a page of the keys that begin with `prefix`; `after` is `next` of the page before."""

    container: str | None = Field(default=None, max_length=63)
    prefix: str = Field(default="", max_length=512)
    after: str | None = Field(default=None, max_length=4096)


def request_key(header: Header) -> str:
    """`rq_` and 52 characters: names a request for ever, and its call on the MCP side."""
    digest = hashlib.sha256("\0".join((header.source.lower(), header.message_id)).encode()).digest()
    return "rq_" + base64.b32encode(digest).decode().rstrip("=").lower()


class _HeaderLeft(BaseModel):
    """As much of a header that is not valid as an answer needs."""

    message_id: str | None = Field(default=None, min_length=1, max_length=128)
    correlation_id: str | None = Field(default=None, max_length=128)
    reply_to: str | None = Field(default=None, max_length=512)
    source: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


class _Left(BaseModel):
    header: _HeaderLeft


def answer_address(incoming: Incoming) -> ReplyAddress | None:
    """Where a request is answered, also one that is not valid; None if it does not say.

    Raises:
        EnvelopeInvalid: It names an entity of AOS itself, or none at all.
    """
    try:
        header = parse_body(_Left, incoming.body).header
    except EnvelopeInvalid:
        header = _HeaderLeft()
    fallback = f"{header.source.lower()}-responses" if header.source else None
    correlation_id = header.correlation_id or header.message_id or incoming.correlation_id
    address = reply_address(
        header.reply_to or incoming.reply_to or fallback,
        correlation_id,
        incoming.message_id,
        incoming.reply_to_session_id,
    )
    return None if address is None else replace(address, requester=header.source or "unknown")


def answer(
    address: ReplyAddress, message_id: str, message_type: str, payload: Mapping[str, Any], now: float
) -> Outbound:
    """The message that answers a request. Sent twice, it carries the same id.

    Args:
        now: Seconds since the epoch.
    """
    message_id = short_id(message_id)
    header = Header(
        message_id=message_id,
        correlation_id=address.correlation_id,
        timestamp=datetime.fromtimestamp(now, UTC),
        source="aos",
        target=address.requester,
        message_type=message_type,
        ttl_seconds=None,
    )
    return Outbound(
        entity=address.entity,
        body=Envelope(header=header, payload=dict(payload)).model_dump_json().encode(),
        message_id=message_id,
        correlation_id=address.correlation_id,
        session_id=address.session_id,
        subject=message_type,
    )
