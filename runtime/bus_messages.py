"""Received Service Bus messages as `BusMessage`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic_core import to_json

from runtime.messages import BusMessage, PropertyValue

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage
    from azure.servicebus.amqp import AmqpAnnotatedMessage


def from_servicebus(message: ServiceBusReceivedMessage, entity: str) -> BusMessage:
    """The SDK's message as ours. A body that is an AMQP value or sequence, not data, becomes UTF-8 text or JSON."""
    # Not through the message's own properties: each of them looks through all fields for one that is set.
    raw = message.raw_amqp_message
    fields = raw.properties
    if fields is None:
        from azure.servicebus.amqp import AmqpMessageProperties

        fields = AmqpMessageProperties()
    return BusMessage(
        body=_body(raw),
        entity=entity,
        message_id=_text(fields.message_id),
        correlation_id=_text(fields.correlation_id),
        reply_to=_text(fields.reply_to),
        reply_to_session_id=_text(fields.reply_to_group_id),
        session_id=_text(fields.group_id),
        subject=_text(fields.subject),
        content_type=_text(fields.content_type),
        application_properties=_properties(raw.application_properties or {}),
        # The AMQP header counts earlier deliveries (part 3.2.1); Service Bus and Functions count this one too.
        delivery_count=(message.delivery_count or 0) + 1,
        enqueued_time=message.enqueued_time_utc,
        sequence_number=message.sequence_number,
    )


def _body(message: AmqpAnnotatedMessage) -> bytes:
    kind = message.body_type.value
    if kind == "data":
        return b"".join(message.body)
    value = message.body if kind == "value" else list(message.body)
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else to_json(value, fallback=str)


def _properties(properties: Mapping[str | bytes, object]) -> dict[str, PropertyValue]:
    return {_text(name) or "": _scalar(value) for name, value in properties.items()}


def _scalar(value: object) -> PropertyValue:
    if isinstance(value, bytes):
        # The SDK hands out AMQP strings undecoded, in the same type as binary.
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if value is None or isinstance(value, (str, int, float, bool, datetime, UUID)):
        return value
    return str(value)


def _text(value: object) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
