"""What the broker writes down so that it survives the end of its process."""

from __future__ import annotations

from typing import Protocol

from emulators.servicebus.message import Message, State


class QueuedMessage:
    """A message in a queue: its content and where it stands. Times are milliseconds since the Unix epoch."""

    __slots__ = (
        "delivery_count", "due_ms", "enqueued_ms", "expires_ms", "lock_token", "message", "sequence_number", "state",
        "ttl_ms",
    )  # fmt: skip

    def __init__(self, message: Message, sequence_number: int, enqueued_ms: int) -> None:
        self.message = message
        self.sequence_number = sequence_number
        self.enqueued_ms = enqueued_ms
        self.due_ms = 0
        """When a scheduled message becomes available."""
        self.ttl_ms: int | None = None
        self.expires_ms: int | None = None
        self.delivery_count = 0
        """Deliveries that failed so far (AMQP 1.0 part 3.2.1)."""
        self.state = State.ACTIVE
        self.lock_token: bytes | None = None

    def encode(self, locked_until_ms: int | None = None) -> bytes:
        """The message as a receiver gets it."""
        return self.message.encode_delivery(
            sequence_number=self.sequence_number,
            enqueued_ms=self.enqueued_ms,
            delivery_count=self.delivery_count,
            state=self.state,
            ttl_ms=self.ttl_ms,
            locked_until_ms=locked_until_ms,
        )


class Journal(Protocol):
    """Takes notes of changes; whoever owns it commits them before anything is acknowledged."""

    def put(self, path: str, entry: QueuedMessage) -> None:
        """A message arrived in the queue at `path`, or came back under another sequence number."""

    def update(self, path: str, entry: QueuedMessage) -> None:
        """Delivery count or state of a message changed."""

    def remove(self, path: str, sequence_number: int) -> None:
        """A message left the queue."""

    def reserve(self, path: str, sequence_number: int) -> None:
        """Sequence numbers up to this one may be in use."""

    def session_state(self, path: str, session_id: str, state: bytes | None, updated_ms: int) -> None:
        """The state of a session was set, or (None) cleared."""

    def remember(self, path: str, message_id: str, seen_ms: int, sequence_number: int) -> None:
        """A message id entered the window of duplicate detection."""

    def forget(self, path: str, message_id: str) -> None:
        """A message id left the window of duplicate detection."""


class NoJournal:
    """Keeps nothing: the namespace lives as long as its process."""

    def put(self, path: str, entry: QueuedMessage) -> None:
        pass

    def update(self, path: str, entry: QueuedMessage) -> None:
        pass

    def remove(self, path: str, sequence_number: int) -> None:
        pass

    def reserve(self, path: str, sequence_number: int) -> None:
        pass

    def session_state(self, path: str, session_id: str, state: bytes | None, updated_ms: int) -> None:
        pass

    def remember(self, path: str, message_id: str, seen_ms: int, sequence_number: int) -> None:
        pass

    def forget(self, path: str, message_id: str) -> None:
        pass
