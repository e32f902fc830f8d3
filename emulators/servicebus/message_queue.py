"""One queue: a queue proper, a subscription or a dead-letter queue. No input or output, no clock of its own."""

from __future__ import annotations

import os
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

from emulators.servicebus.duplicates import DuplicateWindow
from emulators.servicebus.entities import QueueOptions
from emulators.servicebus.errors import (
    INVALID_FIELD,
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    SESSION_CANNOT_BE_LOCKED,
    SESSION_LOCK_LOST,
    AmqpError,
)
from emulators.servicebus.journal import Journal, QueuedMessage
from emulators.servicebus.message import MAX_TTL_MS, Message, State
from emulators.servicebus.sessions import SessionLock, SessionRequest, Sessions

_SEQUENCE_BLOCK: Final = 1000
_STALE_SLACK: Final = 1000


class Outcome(Enum):
    """What a receiver decides about a message."""

    COMPLETE = auto()
    ABANDON = auto()
    RELEASE = auto()
    """Given back unread: the delivery does not count."""
    DEFER = auto()
    DEAD_LETTER = auto()


class Consumer(Protocol):
    """A receiver's link, as the queue sees it."""

    session: SessionLock | None
    removes: bool
    """Receive-and-delete: what is delivered is gone."""

    def ready(self) -> bool:
        """Whether it takes another message now."""

    def deliver(self, entry: QueuedMessage, token: bytes, locked_until_ms: int | None) -> None:
        """Send a message; `locked_until_ms` is None if nothing is locked."""

    def session_lost(self) -> None:
        """The lock on its session expired."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all queues of a namespace share."""

    clock: Callable[[], int]
    """Milliseconds since the Unix epoch."""
    journal: Journal
    wake: Callable[[MessageQueue], None]
    """Asks for `MessageQueue.pump` to be called soon."""
    max_queue_bytes: int


class SequenceNumbers:
    """Sequence numbers that never come twice, reserved in blocks so that not every message writes a counter."""

    def __init__(self, path: str, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._last = self._reserved = 0

    def next(self) -> int:
        self._last += 1
        if self._last > self._reserved:
            self._reserved = self._last + _SEQUENCE_BLOCK - 1
            self._journal.reserve(self._path, self._reserved)
        return self._last

    def restore(self, reserved: int) -> None:
        self._last = self._reserved = max(reserved, self._reserved)


class MessageLock:
    """A message in the hands of a receiver."""

    __slots__ = ("_until_ms", "entry", "session")

    def __init__(self, entry: QueuedMessage, until_ms: int, session: SessionLock | None) -> None:
        self.entry = entry
        self.session = session
        self._until_ms = until_ms

    @property
    def until_ms(self) -> int:
        return self._until_ms if self.session is None else self.session.until_ms

    def extend(self, until_ms: int) -> None:
        self._until_ms = until_ms


# Lock tokens are unique over all processes: a random half and a counter.
_TOKEN_PREFIX: Final = os.urandom(8)
_token_numbers = count(1)


class MessageQueue:
    """Messages in order of their sequence numbers, with locks, schedule, expiry, sessions and a dead-letter queue."""

    def __init__(
        self, path: str, options: QueueOptions, surroundings: Surroundings, parent: MessageQueue | None = None
    ) -> None:
        self.path = path
        self.options = options
        self.stored_bytes = 0
        self.dead_letters: MessageQueue | None = None
        self._parent = parent
        self._clock = surroundings.clock
        self._journal = surroundings.journal
        self._wake = surroundings.wake
        self._max_bytes = surroundings.max_queue_bytes
        self._messages: dict[int, QueuedMessage] = {}
        self._order: list[int] = []  # sequence numbers, sorted; those of messages that are gone are dropped in time
        self._ready: list[int] = []
        self._locks: OrderedDict[bytes, MessageLock] = OrderedDict()  # by expiry: all locks of a queue last as long
        self._schedule: list[tuple[int, int]] = []
        self._expiry: list[tuple[int, int]] = []
        self._consumers: deque[Consumer] = deque()
        self._sessions = Sessions()
        self._sequence: SequenceNumbers = parent._sequence if parent else SequenceNumbers(path, self._journal)
        self._duplicates: DuplicateWindow | None = None
        if options.duplicate_window_ms is not None:
            self._duplicates = DuplicateWindow(path, options.duplicate_window_ms, surroundings.journal)
        if parent is None:
            inner = replace(options, requires_session=False, default_ttl_ms=None, duplicate_window_ms=None)
            self.dead_letters = MessageQueue(f"{path}/$DeadLetterQueue", inner, surroundings, self)

    @property
    def message_count(self) -> int:
        """Messages of any state, without the dead letters."""
        return len(self._messages)

    # ---- arrival

    def publish(self, messages: Sequence[Message]) -> list[int]:
        """Take a batch, all of it or (with an `AmqpError`) nothing; returns the sequence numbers.

        The sequence number of a duplicate is that of the message that it repeats.
        """
        self.admit(messages)
        now = self._clock()
        return [self._accept(message, now) for message in messages]

    def admit(self, messages: Sequence[Message]) -> None:
        """Raise `AmqpError` if the queue cannot take these messages."""
        if self.options.requires_session and any(message.session_id is None for message in messages):
            raise AmqpError(INVALID_FIELD, f"'{self.path}' requires sessions; set the session id of every message.")
        self.reserve_space(sum(message.size for message in messages))

    def reserve_space(self, size: int) -> None:
        """Raise `AmqpError` if the queue and its dead letters have no room for `size` more bytes."""
        used = self.stored_bytes + (self.dead_letters.stored_bytes if self.dead_letters else 0)
        if used + size > self._max_bytes:
            limit = f"{self._max_bytes} bytes"
            raise AmqpError(
                RESOURCE_LIMIT_EXCEEDED, f"'{self.path}' is full ({limit}); receive messages from it first."
            )

    def _accept(self, message: Message, now: int) -> int:
        if self._duplicates is not None and message.message_id is not None:
            known = self._duplicates.find(message.message_id, now)
            if known is not None:
                return known
        number = self._sequence.next()
        if self._duplicates is not None and message.message_id is not None:
            self._duplicates.remember(message.message_id, now, number)
        if message.scheduled_ms is not None and message.scheduled_ms > now:
            entry = QueuedMessage(message, number, now)
            entry.state, entry.due_ms, entry.ttl_ms = State.SCHEDULED, message.scheduled_ms, self._ttl(message)
            self._insert(entry)
            heappush(self._schedule, (entry.due_ms, number))
        else:
            self.arrive(message, number, now)
        return number

    def arrive(self, message: Message, sequence_number: int, now: int) -> None:
        """Make a message available under this sequence number."""
        entry = QueuedMessage(message, sequence_number, now)
        entry.ttl_ms = self._ttl(message)
        if entry.ttl_ms is not None:
            entry.expires_ms = now + entry.ttl_ms
            if entry.ttl_ms > MAX_TTL_MS:
                entry.ttl_ms = None
        self._insert(entry)
        self._make_ready(entry, now)

    def receive_copy(self, message: Message, now: int) -> None:
        """Take the copy of a message that went to the topic of this subscription."""
        if self.options.requires_session and message.session_id is None:
            entry = QueuedMessage(message, self._sequence.next(), now)
            self._insert(entry)
            self._dead_letter(entry, "Session id is null.", "The subscription requires sessions.")
        else:
            self.arrive(message, self._sequence.next(), now)

    def cancel_scheduled(self, sequence_numbers: Sequence[int]) -> None:
        """Take scheduled messages out again, all or (with an `AmqpError`) none."""
        entries = [self._messages.get(number) for number in sequence_numbers]
        found = [entry for entry in entries if entry is not None and entry.state is State.SCHEDULED]
        if len(found) < len(entries):
            raise AmqpError(MESSAGE_NOT_FOUND, "A scheduled message with one of these sequence numbers does not exist.")
        for entry in found:
            self._remove(entry)

    def _ttl(self, message: Message) -> int | None:
        given = [ttl for ttl in (message.ttl_ms, self.options.default_ttl_ms) if ttl]
        return min(given) if given else None

    # ---- storage

    def restore(self, entry: QueuedMessage) -> None:
        """Take over a message that the journal kept."""
        entry.ttl_ms = ttl = self._ttl(entry.message)
        if ttl is not None and self._parent is None:
            entry.expires_ms = None if entry.state is State.SCHEDULED else entry.enqueued_ms + ttl
            entry.ttl_ms = ttl if ttl <= MAX_TTL_MS else None
        self._hold(entry)
        if entry.state is State.SCHEDULED:
            heappush(self._schedule, (entry.due_ms, entry.sequence_number))
        elif entry.state is State.ACTIVE:
            self._make_ready(entry, self._clock())

    def restore_sequence(self, reserved: int) -> None:
        """Go on with sequence numbers after those that may have been used."""
        self._sequence.restore(reserved)

    def restore_session_state(self, session_id: str, state: bytes, updated_ms: int) -> None:
        """Take over a session's state that the journal kept."""
        self._sessions.states[session_id] = (state, updated_ms)
        self.stored_bytes += len(state)

    def restore_duplicate(self, message_id: str, seen_ms: int, sequence_number: int) -> None:
        """Take over a message id that the journal kept."""
        if self._duplicates is not None:
            self._duplicates.restore(message_id, seen_ms, sequence_number)

    def _insert(self, entry: QueuedMessage) -> None:
        self._hold(entry)
        self._journal.put(self.path, entry)

    def _hold(self, entry: QueuedMessage) -> None:
        number = entry.sequence_number
        self._messages[number] = entry
        self.stored_bytes += entry.message.size
        if not self._order or number > self._order[-1]:
            self._order.append(number)
        else:
            insort(self._order, number)
        if entry.expires_ms is not None:
            heappush(self._expiry, (entry.expires_ms, number))

    def _remove(self, entry: QueuedMessage) -> None:
        del self._messages[entry.sequence_number]
        self.stored_bytes -= entry.message.size
        self._journal.remove(self.path, entry.sequence_number)
        limit = 2 * len(self._messages) + _STALE_SLACK
        if len(self._order) > limit:
            self._order = sorted(self._messages)
        if len(self._expiry) > limit:
            self._expiry = [(when, number) for when, number in self._expiry if number in self._messages]
            heapify(self._expiry)

    def _make_ready(self, entry: QueuedMessage, now: int) -> None:
        if entry.expires_ms is not None and entry.expires_ms <= now:
            self._expire(entry)
            return
        if self.options.requires_session and entry.message.session_id is not None:
            self._sessions.add_ready(entry.message.session_id, entry.sequence_number)
        else:
            heappush(self._ready, entry.sequence_number)
        self._wake(self)

    def _expire(self, entry: QueuedMessage) -> None:
        if self.options.dead_letter_on_expiration and self.dead_letters is not None:
            self._dead_letter(entry, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._remove(entry)

    def _dead_letter(self, entry: QueuedMessage, reason: str | None, description: str | None) -> None:
        given = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        added = {key: value for key, value in given.items() if value is not None}
        self._remove(entry)
        moved = QueuedMessage(entry.message, entry.sequence_number, entry.enqueued_ms)
        if added:
            moved.message = entry.message.with_application_properties(added)
        moved.ttl_ms, moved.delivery_count = entry.ttl_ms, entry.delivery_count
        target = self.dead_letters or self
        target._insert(moved)
        target._make_ready(moved, 0)

    # ---- delivery

    def attach(self, consumer: Consumer) -> None:
        """Deliver to this receiver from now on. Raises `AmqpError` if it should have taken a session first."""
        if self.options.requires_session and consumer.session is None:
            raise AmqpError(NOT_ALLOWED, f"'{self.path}' requires sessions; open a session receiver.")
        self._consumers.append(consumer)
        self._wake(self)

    def detach(self, consumer: Consumer) -> None:
        """Stop delivering to this receiver. Its locks stay until they expire, except on the messages of a session."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        self._sessions.waiting = deque(item for item in self._sessions.waiting if item.owner is not consumer)
        lock = consumer.session
        if lock is not None and self._sessions.locks.get(lock.session_id) is lock:
            self._drop_session(lock, Outcome.RELEASE)

    def pump(self) -> None:
        """Hand out messages, one receiver after the other."""
        self._serve_waiting()
        consumers = self._consumers
        idle = 0
        while idle < len(consumers):
            consumer = consumers[0]
            consumers.rotate(-1)
            if not consumer.ready() or not self._hand_over(consumer):
                if consumer.session is None and not self._ready:
                    return
                idle += 1
            else:
                idle = 0

    def _hand_over(self, consumer: Consumer) -> bool:
        now = self._clock()
        session = consumer.session
        if session is not None and session.until_ms <= now:
            return False
        entry = self._pop_ready(self._ready if session is None else self._sessions.ready(session.session_id), now)
        if entry is None:
            return False
        if consumer.removes:
            self._remove(entry)
            consumer.deliver(entry, _next_token(), None)
        else:
            token, until_ms = self._lock(entry, session, now)
            consumer.deliver(entry, token, until_ms)
        return True

    def _pop_ready(self, heap: list[int], now: int) -> QueuedMessage | None:
        while heap:
            entry = self._messages.get(heappop(heap))
            if entry is None or entry.state is not State.ACTIVE or entry.lock_token is not None:
                continue
            if entry.expires_ms is not None and entry.expires_ms <= now:
                self._expire(entry)
                continue
            return entry
        return None

    def _lock(self, entry: QueuedMessage, session: SessionLock | None, now: int) -> tuple[bytes, int]:
        token = _next_token()
        lock = MessageLock(entry, now + self.options.lock_ms, session)
        entry.lock_token = token
        self._locks[token] = lock
        if session is not None:
            session.tokens.add(token)
        return token, lock.until_ms

    # ---- settlement

    def settle(self, token: bytes, outcome: Outcome, reason: str | None = None, description: str | None = None) -> None:
        """Apply a receiver's decision. Raises `AmqpError` if it no longer holds the message."""
        self._held(token)
        self._settle(token, outcome, reason, description)

    def holds(self, token: bytes) -> bool:
        """Whether this lock is still there."""
        return token in self._locks

    def renew_lock(self, tokens: Sequence[bytes]) -> list[int]:
        """Extend locks on messages; returns when they expire now. Raises `AmqpError` if one of them is lost."""
        held = [self._held(token) for token in tokens]
        if any(lock.session is not None for lock in held):
            raise AmqpError(NOT_ALLOWED, "Messages of a session are locked with it; renew the lock on the session.")
        until_ms = self._clock() + self.options.lock_ms
        for token, lock in zip(tokens, held, strict=True):
            lock.extend(until_ms)
            self._locks.move_to_end(token)
        return [until_ms] * len(held)

    def _held(self, token: bytes) -> MessageLock:
        lock = self._locks.get(token)
        if lock is None or lock.until_ms <= self._clock():
            if self.options.requires_session:
                raise AmqpError(SESSION_LOCK_LOST, "The lock on the session expired; accept the session again.")
            raise AmqpError(MESSAGE_LOCK_LOST, "The lock on the message expired or was settled; receive it again.")
        return lock

    def _settle(self, token: bytes, outcome: Outcome, reason: str | None, description: str | None) -> None:
        lock = self._locks.pop(token)
        entry = lock.entry
        entry.lock_token = None
        if lock.session is not None:
            lock.session.tokens.discard(token)
        if outcome is Outcome.COMPLETE:
            self._remove(entry)
        elif outcome is Outcome.DEAD_LETTER:
            self._dead_letter(entry, reason, description)
        elif outcome is Outcome.DEFER:
            entry.state = State.DEFERRED
            entry.delivery_count += 1
            self._journal.update(self.path, entry)
        else:
            self._give_back(entry, counts=outcome is Outcome.ABANDON)

    def _give_back(self, entry: QueuedMessage, *, counts: bool) -> None:
        if counts:
            entry.delivery_count += 1
            if entry.delivery_count >= self.options.max_delivery_count and self.dead_letters is not None:
                text = f"Message could not be consumed after {entry.delivery_count} delivery attempts."
                self._dead_letter(entry, "MaxDeliveryCountExceeded", text)
                return
            self._journal.update(self.path, entry)
        if entry.state is State.ACTIVE:
            self._make_ready(entry, self._clock())

    # ---- by sequence number

    def peek(self, first: int, session_id: str | None = None) -> Iterator[QueuedMessage]:
        """Messages from a sequence number on, whatever their state, without locking them."""
        order = self._order
        for index in range(bisect_left(order, first), len(order)):
            entry = self._messages.get(order[index])
            if entry is not None and (session_id is None or entry.message.session_id == session_id):
                yield entry

    def deferred(self, sequence_numbers: Sequence[int]) -> list[QueuedMessage]:
        """Deferred messages that nobody holds. Raises `AmqpError` if one of them is not there."""
        entries = [self._messages.get(number) for number in dict.fromkeys(sequence_numbers)]
        found = [entry for entry in entries if entry and entry.state is State.DEFERRED and not entry.lock_token]
        if len(found) < len(entries):
            raise AmqpError(MESSAGE_NOT_FOUND, "A deferred message with one of these sequence numbers does not exist.")
        return found

    def lock_deferred(self, entry: QueuedMessage, session: SessionLock | None) -> tuple[bytes, int]:
        """Lock a deferred message; returns the token and when the lock expires."""
        return self._lock(entry, session, self._clock())

    def remove_deferred(self, entry: QueuedMessage) -> None:
        """Delete a deferred message that is being received and deleted."""
        self._remove(entry)

    # ---- sessions

    def accept_session(self, session_id: str, consumer: Consumer) -> SessionLock:
        """Lock the session of that name. Raises `AmqpError` if another receiver has it."""
        self._require_sessions()
        held = self._sessions.locks.get(session_id)
        if held is not None and held.until_ms > self._clock():
            raise AmqpError(SESSION_CANNOT_BE_LOCKED, f"The session '{session_id}' is held by another receiver.")
        if held is not None:
            self._lose_session(held)
        return self._sessions.lock(session_id, consumer, self._clock() + self.options.lock_ms)

    def accept_next_session(self, request: SessionRequest) -> None:
        """Lock the next session with messages, now or before the deadline of the request."""
        self._require_sessions()
        self._sessions.waiting.append(request)
        self._wake(self)

    def owned_session(self, session_id: str, owner: Consumer | None) -> SessionLock:
        """The lock on a session, if this receiver holds it; raises `AmqpError` otherwise."""
        lock = self._sessions.locks.get(session_id)
        if lock is None or lock.owner is not owner or lock.until_ms <= self._clock():
            raise AmqpError(SESSION_LOCK_LOST, f"The lock on session '{session_id}' expired; accept the session again.")
        return lock

    def renew_session(self, lock: SessionLock) -> int:
        """Extend the lock on a session; returns when it expires now."""
        lock.until_ms = self._clock() + self.options.lock_ms
        return lock.until_ms

    def session_state(self, session_id: str) -> bytes | None:
        """What the application keeps in the session."""
        state = self._sessions.states.get(session_id)
        return None if state is None else state[0]

    def set_session_state(self, session_id: str, state: bytes | None) -> None:
        """Keep something in the session, or (None) nothing any more."""
        old = self.session_state(session_id) or b""
        now = self._clock()
        if state is not None:
            self.reserve_space(len(state) - len(old))
            self._sessions.states[session_id] = (state, now)
        else:
            self._sessions.states.pop(session_id, None)
        self.stored_bytes += len(state or b"") - len(old)
        self._journal.session_state(self.path, session_id, state, now)

    def session_ids(self, updated_after_ms: int | None = None) -> list[str]:
        """Sessions with messages or state; with a time, those whose state changed after it."""
        states = self._sessions.states
        if updated_after_ms is not None:
            return sorted(name for name, (_, updated_ms) in states.items() if updated_ms > updated_after_ms)
        held = {entry.message.session_id for entry in self._messages.values()}
        return sorted({name for name in held if name is not None} | set(states))

    def _require_sessions(self) -> None:
        if not self.options.requires_session:
            raise AmqpError(NOT_ALLOWED, f"'{self.path}' has no sessions; open a receiver without one.")

    def _serve_waiting(self) -> None:
        sessions = self._sessions
        if not sessions.waiting:
            return
        now = self._clock()
        for session_id in sessions.available():
            if not sessions.waiting:
                return
            heap = sessions.ready(session_id)
            entry = self._pop_ready(heap, now)
            if entry is None:
                sessions.drained(session_id)
                continue
            heappush(heap, entry.sequence_number)
            request = sessions.waiting.popleft()
            request.on_accepted(sessions.lock(session_id, request.owner, now + self.options.lock_ms))

    def _drop_session(self, lock: SessionLock, outcome: Outcome) -> None:
        for token in list(lock.tokens):
            self._settle(token, outcome, None, None)
        self._sessions.unlock(lock)
        self._wake(self)

    def _lose_session(self, lock: SessionLock) -> None:
        self._drop_session(lock, Outcome.ABANDON)
        lock.owner.session_lost()

    # ---- time

    def tick(self, now: int) -> None:
        """Let time pass: locks expire, scheduled messages become available, messages expire, requests time out."""
        while self._locks and not self.options.requires_session:
            token, lock = next(iter(self._locks.items()))
            if lock.until_ms > now:
                break
            self._settle(token, Outcome.ABANDON, None, None)
        for session in [lock for lock in self._sessions.locks.values() if lock.until_ms <= now]:
            self._lose_session(session)
        self._activate_scheduled(now)
        self._expire_due(now)
        waiting = self._sessions.waiting
        for request in [item for item in waiting if item.deadline_ms <= now]:
            waiting.remove(request)
            request.on_timeout()

    def _activate_scheduled(self, now: int) -> None:
        while self._schedule and self._schedule[0][0] <= now:
            entry = self._messages.get(heappop(self._schedule)[1])
            if entry is not None:
                # A message that becomes due is appended as if it were sent now, under a new number.
                self._remove(entry)
                self.arrive(entry.message, self._sequence.next(), now)

    def _expire_due(self, now: int) -> None:
        while self._expiry and self._expiry[0][0] <= now:
            when, number = heappop(self._expiry)
            entry = self._messages.get(number)
            if entry is not None and entry.expires_ms == when and entry.lock_token is None:
                self._expire(entry)


def _next_token() -> bytes:
    return _TOKEN_PREFIX + next(_token_numbers).to_bytes(8, "big")
