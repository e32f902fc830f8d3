"""Sending to Service Bus: one client per process, one sender per entity, opened when first used and kept."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from aos.config import SERVICE_BUS, Settings
from aos.errors import BusUnavailable, EntityRefuses, SettingError, UnknownEntity
from aos.messaging.envelopes import POISON, EnvelopeInvalid
from aos.telemetry.bus import Sending, parked

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
    from azure.servicebus.amqp import AmqpAnnotatedMessage

log = logging.getLogger("aos.messaging")

_RETRIES: dict[str, Any] = {"retry_total": 2, "retry_backoff_factor": 0.2, "retry_backoff_max": 2}

MOST_SENDERS = 64
"""Entities whose senders stay open: ReplyTo may name a queue that its sender has for one answer alone."""
_SCHEDULED = "x-opt-scheduled-enqueue-time"
"""The annotation that says when a message becomes visible (AMQP 1.0 in Azure Service Bus, annotations)."""
_REFUSALS = frozenset({"amqp:not-allowed", "amqp:invalid-field"})
"""By which the service says that it never takes a message; the SDK does not try again either."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """A message to send.

    Attributes:
        entity: Queue or topic.
        body: JSON, at most 192 KiB (see `aos.messaging.claim_check`).
        delay: Seconds until it becomes visible.
    """

    entity: str
    body: bytes
    message_id: str
    correlation_id: str | None = None
    session_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    subject: str | None = None
    delay: float = 0.0
    properties: Mapping[str, str | int] = field(default_factory=dict)


class Bus:
    """The namespace that the settings name.

    Args:
        settings: With a connection string, or a namespace and an identity.
        credential: The app's identity; used when there is no connection string.
    """

    def __init__(self, settings: Settings, credential: AsyncTokenCredential | None = None) -> None:
        self._settings = settings
        self._credential = credential
        self._client: ServiceBusClient | None = None
        # With their locks; the one that was used last is at the end.
        self._senders: OrderedDict[str, tuple[ServiceBusSender, asyncio.Lock]] = OrderedDict()
        # Weak: senders of messages choose what ReplyTo says. Those that wait for a lock outlive the sender.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def send(self, messages: Iterable[Outbound]) -> None:
        """Sends all messages, those of one entity together and in order.

        Raises:
            UnknownEntity: The namespace has no such queue or topic, or (`EntityRefuses`) it never takes this message.
            EnvelopeInvalid: A message is larger than the namespace takes (code `too_large`).
            BusUnavailable: The namespace did not take them; sending them again is harmless to receivers that
                compare message ids.
        """
        by_entity: dict[str, list[Outbound]] = {}
        for message in messages:
            by_entity.setdefault(message.entity, []).append(message)
        for entity, batch in by_entity.items():
            with Sending(entity) as sent:
                await self._send(entity, batch, sent)
            if entity == POISON:
                for message in batch:
                    parked(str(message.properties.get("DeadLetterReason", "")))

    async def prepare(self, *entities: str) -> None:
        """Opens senders ahead of their first use (it takes about half a second each)."""
        await asyncio.gather(*(self._open(entity) for entity in entities))

    def client(self) -> ServiceBusClient:
        """The SDK's client, for receiving; closed with the bus."""
        return self._connection()

    async def close(self) -> None:
        senders, self._senders = list(self._senders.values()), OrderedDict()
        await asyncio.gather(*(sender.close() for sender, _ in senders), return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _send(self, entity: str, batch: list[Outbound], sent: Sending) -> None:
        from azure.core.exceptions import AzureError
        from azure.servicebus.exceptions import MessageSizeExceededError, MessagingEntityNotFoundError

        lock = self._lock(entity)
        async with lock:
            try:
                sender = self._sender(entity, lock)
                wire = [_wire(message, sent) for message in batch]
                # A list goes out as one batch; one too large for that is split by hand.
                try:
                    await sender.send_messages(wire if len(wire) > 1 else wire[0])
                except MessageSizeExceededError:
                    if len(wire) == 1:
                        raise
                    for message in wire:
                        await sender.send_messages(message)
            except MessagingEntityNotFoundError as error:
                await self._drop(entity)
                raise UnknownEntity(f"The Service Bus namespace has no queue or topic {entity!r}.") from error
            except MessageSizeExceededError as error:
                await self._drop(entity)
                raise EnvelopeInvalid(
                    f"A message for {entity!r} is larger than Service Bus takes: {error}", code="too_large"
                ) from error
            except (AzureError, OSError) as error:
                # Not only the errors of Service Bus: signing in has its own.
                await self._drop(entity)
                if _condition(error) in _REFUSALS:
                    raise EntityRefuses(
                        f"{entity!r} does not take the message: {error} If it requires sessions, its messages need a "
                        "session id; that of a reply is the ReplyToSessionId of what is answered."
                    ) from error
                raise BusUnavailable(f"Service Bus did not take a message for {entity!r}: {error}") from error
        await self._close_unused()

    async def _open(self, entity: str) -> None:
        from azure.core.exceptions import AzureError
        from azure.servicebus.exceptions import MessagingEntityNotFoundError

        lock = self._lock(entity)
        async with lock:
            try:
                await self._sender(entity, lock).__aenter__()
            except MessagingEntityNotFoundError as error:
                await self._drop(entity)
                raise UnknownEntity(f"The Service Bus namespace has no queue or topic {entity!r}.") from error
            except (AzureError, OSError) as error:
                await self._drop(entity)
                raise BusUnavailable(f"Service Bus does not answer for {entity!r}: {error}") from error

    def _lock(self, entity: str) -> asyncio.Lock:
        lock = self._locks.get(entity)
        if lock is None:
            lock = self._locks[entity] = asyncio.Lock()
        return lock

    def _sender(self, entity: str, lock: asyncio.Lock) -> ServiceBusSender:
        known = self._senders.get(entity)
        if known is not None:
            self._senders.move_to_end(entity)
            return known[0]
        # The SDK addresses queues and topics alike.
        sender = self._connection().get_queue_sender(entity)
        self._senders[entity] = sender, lock
        return sender

    async def _close_unused(self) -> None:
        """Closes the senders that were not used for the longest time, if there are too many."""
        for entity in list(self._senders)[: max(0, len(self._senders) - MOST_SENDERS)]:
            known = self._senders.get(entity)
            if known is not None and not known[1].locked():
                await self._drop(entity)

    async def _drop(self, entity: str) -> None:
        """Closes a sender: the next use opens a new one."""
        from azure.servicebus.exceptions import ServiceBusError

        known = self._senders.pop(entity, None)
        if known is not None:
            try:
                await known[0].close()
            except (ServiceBusError, OSError) as error:
                log.debug("closing the sender of %s: %s", entity, error)

    def _connection(self) -> ServiceBusClient:
        if self._client is None:
            from azure.servicebus.aio import ServiceBusClient

            s, options = self._settings, _RETRIES
            if s.service_bus:
                try:
                    self._client = ServiceBusClient.from_connection_string(s.service_bus, **options)
                except ValueError as error:
                    raise SettingError(f"{SERVICE_BUS} is not a connection string: {error}") from None
            elif s.service_bus_namespace and self._credential is not None:
                self._client = ServiceBusClient(s.service_bus_namespace, self._credential, **options)
            else:
                raise SettingError(
                    f"{SERVICE_BUS} is not set: it holds a connection string, or "
                    f"{SERVICE_BUS}__fullyQualifiedNamespace names the namespace."
                )
        return self._client


def _condition(error: Exception) -> str:
    """Why the service refused, as AMQP 1.0 part 2.8.15 names it; the SDK has one error for most of that."""
    condition = getattr(getattr(error, "inner_exception", None), "condition", None)
    return condition.decode() if isinstance(condition, bytes) else ""


def _wire(message: Outbound, sent: Sending) -> AmqpAnnotatedMessage:
    # In the protocol's own terms: to make a ServiceBusMessage takes twice as long.
    from azure.servicebus.amqp import AmqpAnnotatedMessage

    annotations: dict[str, Any] | None = None
    if message.delay > 0:
        annotations = {_SCHEDULED: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=message.delay)}
    return AmqpAnnotatedMessage(
        data_body=message.body,
        properties={
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "group_id": message.session_id,
            "reply_to": message.reply_to,
            "reply_to_group_id": message.reply_to_session_id,
            "subject": message.subject,
            "content_type": "application/json",
        },
        application_properties=dict(sent.stamp(message.message_id, message.properties)),
        annotations=annotations,
    )
