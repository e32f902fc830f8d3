"""The links of a connection (AMQP 1.0 part 2.6) as Service Bus uses them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

from emulators.servicebus import frames
from emulators.servicebus.errors import (
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    NOT_IMPLEMENTED,
    RESOURCE_LIMIT_EXCEEDED,
    SESSION_LOCK_LOST,
    AmqpError,
    DecodeError,
)
from emulators.servicebus.frames import Attach, Flow, Transfer
from emulators.servicebus.journal import QueuedMessage
from emulators.servicebus.management import grant_token
from emulators.servicebus.message import Message, batch_items
from emulators.servicebus.message_queue import MessageQueue
from emulators.servicebus.sessions import SessionLock

if TYPE_CHECKING:
    from emulators.servicebus.session import Session

MANAGEMENT: Final = "$management"
CBS: Final = "$cbs"
WINDOW: Final = 0x7FFFFFFF
_SENDER_CREDIT: Final = 1000
_MAX_WAITING_RESPONSES: Final = 64
_BATCH_FORMAT: Final = 0x80013700
_REQUEST_MARGIN: Final = 65_536


class Link:
    """One end of a link; the peer has the other one. `handle` is the peer's, and serves in both directions."""

    def __init__(self, session: Session, name: str, handle: int) -> None:
        self.session_end = session
        self.name = name
        self.handle = handle
        self.credit = 0
        self.delivery_count = 0

    def on_flow(self, flow: Flow) -> None:
        """The peer told its state, and asks for ours if it wants an echo."""
        if flow.echo:
            self.session_end.send_flow(self)

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        raise AmqpError(NOT_ALLOWED, "A transfer came in on a link on which the peer receives.")

    def close(self) -> None:
        """Give back whatever the link holds."""


class DetachedLink(Link):
    """A link that this side closed; what the peer sent before it knew is ignored."""

    def on_flow(self, flow: Flow) -> None:
        pass

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        pass


class IncomingLink(Link, ABC):
    """A link on which the peer sends. Subclasses take the complete deliveries."""

    def __init__(self, session: Session, attach: Attach, max_bytes: int) -> None:
        super().__init__(session, attach.name, attach.handle)
        self.credit = _SENDER_CREDIT
        self.max_bytes = max_bytes
        self._first: Transfer | None = None
        self._data = bytearray()
        self._size = 0

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Put a delivery together from its frames; one that grows too large is read to its end and refused."""
        if self._first is None and not transfer.more and not transfer.aborted:
            self._finish(transfer, transfer.settled, payload, len(payload))
            return
        if self._first is None:
            self._first = transfer
        self._size += len(payload)
        if self._size <= self.max_bytes:
            self._data += payload
            self.session_end.connection.hold_partial(len(payload))
        if transfer.aborted:
            self._forget_delivery()
            self._count_delivery()
        elif not transfer.more:
            first, whole, size = self._first, bytes(self._data), self._size
            self._forget_delivery()
            self._finish(first, transfer.settled, whole, size)

    def _finish(self, first: Transfer, settled: bool, payload: bytes, size: int) -> None:
        if first.delivery_id is None:
            raise DecodeError("transfer.delivery-id is required in the first frame of a delivery.")
        state = self._refused(size) if size > self.max_bytes else self._taken(first.message_format, payload)
        if not (first.settled or settled):
            self.session_end.send(frames.disposition(as_receiver=True, delivery_id=first.delivery_id, state=state))
        self._count_delivery()

    def _count_delivery(self) -> None:
        self.delivery_count = (self.delivery_count + 1) & frames.UINT_MAX
        self.credit -= 1
        # Credit paces a peer that keeps to it. One that does not gains nothing: a delivery is dealt with at once.
        if self.credit < _SENDER_CREDIT // 2:
            self.credit = _SENDER_CREDIT
            self.session_end.send_flow(self)

    def close(self) -> None:
        self._forget_delivery()

    @abstractmethod
    def take(self, message_format: int, payload: bytes) -> None:
        """Deal with a complete delivery; an `AmqpError` rejects it."""

    def _taken(self, message_format: int, payload: bytes) -> bytes:
        try:
            self.take(message_format, payload)
        except AmqpError as problem:
            return frames.outcome(frames.REJECTED, frames.error(problem))
        return frames.ACCEPTED_STATE

    def _refused(self, size: int) -> bytes:
        text = f"The delivery takes {size} bytes; the limit is {self.max_bytes}. Send less, or a reference to it."
        return frames.outcome(frames.REJECTED, frames.error(AmqpError(MESSAGE_SIZE_EXCEEDED, text)))

    def _forget_delivery(self) -> None:
        self.session_end.connection.hold_partial(-len(self._data))
        self._first, self._data, self._size = None, bytearray(), 0


class EntitySender(IncomingLink):
    """The peer sends messages to a queue or a topic."""

    def __init__(self, session: Session, attach: Attach, destination: MessageQueue) -> None:
        super().__init__(session, attach, session.connection.server.max_message_bytes)
        self._destination = destination

    def take(self, message_format: int, payload: bytes) -> None:
        if message_format == _BATCH_FORMAT:
            self._destination.publish([Message.parse(item) for item in batch_items(payload)])
        elif message_format == 0:
            self._destination.publish([Message.parse(payload)])
        else:
            raise AmqpError(NOT_IMPLEMENTED, f"The message format 0x{message_format:x} is not known.")


class RequestLink(IncomingLink):
    """The peer sends requests to ``$cbs`` or ``$management``."""

    def __init__(self, session: Session, attach: Attach, path: str) -> None:
        limit = max(session.connection.server.max_message_bytes, 1 << 20) + _REQUEST_MARGIN
        super().__init__(session, attach, limit)
        self.path = path

    def take(self, message_format: int, payload: bytes) -> None:
        if self.path == CBS:
            request, response = grant_token(payload)
        else:
            entity = self.path.removesuffix("/" + MANAGEMENT)
            management = self.session_end.connection.server.management
            request, response = management.answer(entity, payload, self.session_end.connection.find_receiver)
        link = self.session_end.response_link(self.path, request.reply_to)
        if link is None:
            raise AmqpError(NOT_ALLOWED, f"No link receives from '{self.path}'; attach one before the first request.")
        link.respond(response)


class OutgoingLink(Link):
    """A link on which the peer receives."""

    def on_flow(self, flow: Flow) -> None:
        limit = (flow.delivery_count or 0) + (flow.link_credit or 0)
        credit = (limit - self.delivery_count) & frames.UINT_MAX
        # Counts wrap around: a difference in the upper half means that the peer has less credit than it has used.
        self.credit = credit if credit <= WINDOW else 0
        self.credit_changed(drain=flow.drain)
        if flow.drain:
            self.delivery_count = (self.delivery_count + self.credit) & frames.UINT_MAX
            self.credit = 0
        if flow.drain or flow.echo:
            self.session_end.send_flow(self, drain=flow.drain)

    def credit_changed(self, *, drain: bool = False) -> None:
        """Send what the new credit allows; at once if the rest of it is about to be drained."""

    def count_delivery(self) -> None:
        self.credit -= 1
        self.delivery_count = (self.delivery_count + 1) & frames.UINT_MAX


class ResponseLink(OutgoingLink):
    """The peer receives the responses of ``$cbs`` or ``$management``."""

    def __init__(self, session: Session, attach: Attach, path: str) -> None:
        super().__init__(session, attach.name, attach.handle)
        self.path = path
        self.target = attach.target
        self._waiting: deque[bytes] = deque()
        self._number = 0

    def respond(self, response: bytes) -> None:
        """Send a response, or keep it until there is credit."""
        if len(self._waiting) >= _MAX_WAITING_RESPONSES:
            raise AmqpError(RESOURCE_LIMIT_EXCEEDED, "Too many responses wait for link credit; give the link some.")
        self._waiting.append(response)
        self.session_end.connection.held_back += len(response)
        self.credit_changed()

    def credit_changed(self, *, drain: bool = False) -> None:
        while self._waiting and self.credit > 0:
            self.count_delivery()
            self._number += 1
            response = self._waiting.popleft()
            self.session_end.connection.held_back -= len(response)
            self.session_end.send_message(self, response, self._number.to_bytes(16, "big"), settled=True)

    def close(self) -> None:
        self.session_end.connection.held_back -= sum(map(len, self._waiting))
        self._waiting.clear()


class Receiver(OutgoingLink):
    """The peer receives the messages of an entity: the queue's `Consumer`."""

    def __init__(self, session: Session, attach: Attach, queue: MessageQueue) -> None:
        super().__init__(session, attach.name, attach.handle)
        self.queue = queue
        self.session: SessionLock | None = None
        self.removes = attach.sender_settles

    def ready(self) -> bool:
        return self.credit > 0 and self.session_end.can_send()

    def deliver(self, entry: QueuedMessage, token: bytes, locked_until_ms: int | None) -> None:
        self.count_delivery()
        settled = locked_until_ms is None
        number = self.session_end.send_message(self, entry.encode(locked_until_ms), token, settled=settled)
        if not settled:
            self.session_end.unsettled[number] = (self.queue, token)

    def session_lost(self) -> None:
        text = "The lock on the session expired; accept the session again."
        self.session_end.detach_with(self, AmqpError(SESSION_LOCK_LOST, text))

    def credit_changed(self, *, drain: bool = False) -> None:
        if drain:
            self.queue.pump()
        else:
            self.session_end.connection.server.broker.wake(self.queue)

    def close(self) -> None:
        self.queue.detach(self)
