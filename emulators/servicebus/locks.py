"""Peek-lock: which message is in whose hands, and until when."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final

from emulators.servicebus.errors import MESSAGE_LOCK_LOST, NOT_ALLOWED, SESSION_LOCK_LOST, AmqpError
from emulators.servicebus.journal import QueuedMessage
from emulators.servicebus.sessions import SessionLock

# Tokens are unique over all processes: a random half and a counter.
_TOKEN_PREFIX: Final = os.urandom(8)
_token_numbers = count(1)


def next_token() -> bytes:
    """A lock token: the 16 bytes that serve as the delivery tag."""
    return _TOKEN_PREFIX + next(_token_numbers).to_bytes(8, "big")


class MessageLock:
    """A message in the hands of a receiver; within a session it lasts as long as the lock on the session."""

    __slots__ = ("entry", "own_until_ms", "session")

    def __init__(self, entry: QueuedMessage, own_until_ms: int, session: SessionLock | None) -> None:
        self.entry = entry
        self.own_until_ms = own_until_ms
        self.session = session

    @property
    def until_ms(self) -> int:
        """When the lock expires."""
        return self.own_until_ms if self.session is None else self.session.until_ms


class Locks:
    """The locks on the messages of one queue. All of them last as long, so their order is that of their expiry."""

    def __init__(self) -> None:
        self._locks: OrderedDict[bytes, MessageLock] = OrderedDict()

    def __contains__(self, token: bytes) -> bool:
        return token in self._locks

    def add(self, entry: QueuedMessage, until_ms: int, session: SessionLock | None) -> bytes:
        """Lock a message; returns the token."""
        token = next_token()
        entry.lock_token = token
        self._locks[token] = MessageLock(entry, until_ms, session)
        if session is not None:
            session.tokens.add(token)
        return token

    def held(self, token: bytes, now: int) -> MessageLock:
        """The lock of this token. Raises `AmqpError` if it is lost."""
        lock = self._locks.get(token)
        if lock is None:
            raise AmqpError(MESSAGE_LOCK_LOST, "The lock on the message expired or was settled; receive it again.")
        if lock.until_ms <= now:
            if lock.session is not None:
                raise AmqpError(SESSION_LOCK_LOST, "The lock on the session expired; accept the session again.")
            raise AmqpError(MESSAGE_LOCK_LOST, "The lock on the message expired; receive it again.")
        return lock

    def release(self, token: bytes) -> QueuedMessage:
        """Take a lock away; returns the message."""
        lock = self._locks.pop(token)
        lock.entry.lock_token = None
        if lock.session is not None:
            lock.session.tokens.discard(token)
        return lock.entry

    def renew(self, tokens: Sequence[bytes], now: int, until_ms: int) -> None:
        """Extend locks. Raises `AmqpError` if one of them is lost or belongs to a session; then none is extended."""
        held = [self.held(token, now) for token in tokens]
        if any(lock.session is not None for lock in held):
            raise AmqpError(NOT_ALLOWED, "Messages of a session are locked with it; renew the lock on the session.")
        for token, lock in zip(tokens, held, strict=True):
            lock.own_until_ms = until_ms
            self._locks.move_to_end(token)

    def expired(self, now: int) -> Iterator[bytes]:
        """Tokens whose time is over; the caller releases each before it asks for the next."""
        while self._locks:
            token, lock = next(iter(self._locks.items()))
            # Locks within a session end with the session.
            if lock.session is not None or lock.until_ms > now:
                return
            yield token
