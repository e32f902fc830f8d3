"""What all stores share: the keys of rows, and the first state of an operation."""

from __future__ import annotations

import base64
import hashlib

from aos.kernel.operations import holds_open
from aos.kernel.ports import Change
from aos.kernel.records import replace
from aos.kernel.types import ConversationKey, Message, Operation

FIRST_LOOK = 35.0
"""Seconds after acceptance when the sweep first looks at an operation that did not end: a lease (30 s) and a little."""
SHARDS = 16
ETAG = "etag"
"""Where a row that was read has its ETag."""


def table_key(*parts: str) -> str:
    """A key of fixed length and safe characters: ids may hold what Table storage refuses in keys."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=")


def shard_of(operation_id: str) -> str:
    """The partition of the due table that an operation belongs to."""
    return f"{int.from_bytes(hashlib.sha256(operation_id.encode()).digest()[:2], 'big') % SHARDS:02d}"


def due_row(operation_id: str, at: float) -> str:
    """Row key in the due table: begins with the time in milliseconds, so that a range holds what is due."""
    return f"{int(at * 1000):015d}.{operation_id}"


def settled(change: Change) -> list[Operation]:
    """The operations for which nothing remains to be done: they ended, and their replies are out."""
    waiting = {holds_open(out) for out in change.state.outbox}
    ended = (*change.operations, *change.told)
    return [operation for operation in ended if operation.final and operation.operation_id not in waiting]


def replayable(known: Operation, message: Message) -> bool:
    """Whether the message starts a further attempt of an operation that failed."""
    return known.status in ("failed", "cancelled") and message.attempt > known.attempt


def erased(operation: Operation) -> Operation:
    """What remains of an operation that ended when its conversation is forgotten: how it ended, and what it took."""
    return replace(operation, reply=None, tool_calls=(), reply_to=None, routing=None)


def queued(key: ConversationKey, message: Message) -> Operation:
    """The operation of a message that was just accepted."""
    return Operation(
        operation_id=message.operation_id,
        agent_id=key.agent_id,
        conversation_id=key.conversation_id,
        status="queued",
        created_at=message.accepted_at,
        updated_at=message.accepted_at,
        attempt=message.attempt,
        event_type=message.event_type,
        reply_to=message.reply_to,
        parent=message.parent,
        trace=message.trace,
        routing=message.routing,
    )
