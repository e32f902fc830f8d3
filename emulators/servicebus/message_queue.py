"""One queue: a queue proper, a subscription or a dead-letter queue. No input or output, no clock of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from heapq import heappop, heappush

from emulators.servicebus.duplicates import DuplicateWindow
from emulators.servicebus.entities import QueueOptions
from emulators.servicebus.errors import (
    INVALID_FIELD,
    MESSAGE_NOT_FOUND,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    SESSION_CANNOT_BE_LOCKED,
    SESSION_LOCK_LOST,
    AmqpError,
)
from emulators.servicebus.journal import Journal, QueuedMessage
from emulators.servicebus.locks import Locks, next_token
from emulators.servicebus.message import MAX_TTL_MS, Message, State
from emulators.servicebus.message_log import MessageLog, SequenceNumbers
from emulators.servicebus.sessions import Consumer, SessionLock, SessionRequest, Sessions


class Outcome(Enum):
    """What a receiver decides about a message."""

    COMPLETE = auto()
    ABANDON = auto()
    RELEASE = auto()
    """Given back unread: the delivery does not count."""
    DEFER = auto()
    DEAD_LETTER = auto()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all queues of a namespace share."""

    clock: Callable[[], int]
    """Milliseconds since the Unix epoch."""
    journal: Journal
    wake: Callable[[MessageQueue], None]
    """Asks for `MessageQueue.pump` to be called soon."""
    max_queue_bytes: int


class MessageQueue:
    """Messages in order of their sequence numbers, with locks, schedule, expiry, sessions and a dead-letter queue."""

    def __init__(
        self, path: str, options: QueueOptions, surroundings: Surroundings, parent: MessageQueue | None = None
    ) -> None:
        self.path = path
        self.options = options
        self.dead_letters: MessageQueue | None = None
        self._clock = surroundings.clock
        self._journal = surroundings.journal
        self._wake = surroundings.wake
        self._max_bytes = surroundings.max_queue_bytes
        self._log = MessageLog(path, surroundings.journal)
        self._ready: list[int] = []
        self._locks = Locks()
        self._consumers: deque[Consumer] = deque()
        self._sessions = Sessions()
        self._sequence: SequenceNumbers = parent._sequence if parent else SequenceNumbers(path, self._journal)
        self._duplicates: DuplicateWindow | None = None
        if options.duplicate_window_ms is not None:
            self._duplicates = DuplicateWindow(path, options.duplicate_window_ms, surroundings.journal)
        self._is_dead_letters = parent is not None
        if parent is None:
            inner = replace(options, requires_session=False, default_ttl_ms=None, duplicate_window_ms=None)
            self.dead_letters = MessageQueue(f"{path}/$DeadLetterQueue", inner, surroundings, self)

    @property
    def stored_bytes(self) -> int:
        """Bytes of messages and session state, dead letters included."""
        dead = self.dead_letters.stored_bytes if self.dead_letters else 0
        return self._log.size + self._sessions.state_bytes + dead

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
        self.reserve_space(sum([message.size for message in messages]))

    def reserve_space(self, size: int) -> None:
        """Raise `AmqpError` if the queue and its dead letters have no room for `size` more bytes."""
        if self.stored_bytes + size > self._max_bytes:
            limit = f"{self._max_bytes} bytes"
            raise AmqpError(
                RESOURCE_LIMIT_EXCEEDED, f"'{self.path}' is full ({limit}); receive messages from it first."
            )

    def _accept(self, message: Message, now: int) -> int:
        duplicates = self._duplicates if message.message_id is not None else None
        known = duplicates.find(message.message_id or "", now) if duplicates else None
        if known is not None:
            return known
        number = self._sequence.next()
        if duplicates is not None:
            duplicates.remember(message.message_id or "", now, number)
        if message.scheduled_ms is not None and message.scheduled_ms > now:
            entry = QueuedMessage(message, number, now)
            entry.state, entry.due_ms = State.SCHEDULED, message.scheduled_ms
            self._set_ttl(entry)
            self._log.insert(entry)
        else:
            self.arrive(message, number, now)
        return number

    def arrive(self, message: Message, sequence_number: int, now: int) -> None:
        """Make a message available under this sequence number."""
        entry = QueuedMessage(message, sequence_number, now)
        self._set_ttl(entry)
        self._log.insert(entry)
        self._make_ready(entry, now)

    def receive_copy(self, message: Message, now: int) -> None:
        """Take the copy of a message that went to the topic of this subscription."""
        if self.options.requires_session and message.session_id is None:
            entry = QueuedMessage(message, self._sequence.next(), now)
            self._log.insert(entry)
            self._dead_letter(entry, "Session id is null.", "The subscription requires sessions.")
        else:
            self.arrive(message, self._sequence.next(), now)

    def cancel_scheduled(self, sequence_numbers: Sequence[int]) -> None:
        """Take scheduled messages out again, all or (with an `AmqpError`) none."""
        for entry in self._in_state(State.SCHEDULED, sequence_numbers):
            self._log.remove(entry)

    def _set_ttl(self, entry: QueuedMessage) -> None:
        """The time to live of the message, limited by that of the queue; it starts when the message is available."""
        given = [ttl for ttl in (entry.message.ttl_ms, self.options.default_ttl_ms) if ttl]
        ttl = min(given, default=MAX_TTL_MS + 1)
        entry.ttl_ms = ttl if ttl <= MAX_TTL_MS else None
        # Dead letters do not expire.
        if given and entry.state is not State.SCHEDULED and not self._is_dead_letters:
            entry.expires_ms = entry.enqueued_ms + ttl

    # ---- what the journal kept

    def restore(self, entry: QueuedMessage) -> None:
        """Take over a message."""
        self._set_ttl(entry)
        self._log.restore(entry)
        if entry.state is not State.SCHEDULED:
            self._make_ready(entry, self._clock())

    def restore_sequence(self, reserved: int) -> None:
        """Go on with sequence numbers after those that may have been used."""
        self._sequence.restore(reserved)

    def restore_session_state(self, session_id: str, state: bytes, updated_ms: int) -> None:
        """Take over a session's state."""
        self._sessions.set_state(session_id, state, updated_ms)

    def restore_duplicate(self, message_id: str, seen_ms: int, sequence_number: int) -> None:
        """Take over a message id of the window of duplicate detection."""
        if self._duplicates is not None:
            self._duplicates.restore(message_id, seen_ms, sequence_number)

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
        self._sessions.forget_requests(consumer)
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
            if consumer.ready() and self._hand_over(consumer):
                idle = 0
            elif consumer.session is None and not self._ready:
                return
            else:
                idle += 1

    def _hand_over(self, consumer: Consumer) -> bool:
        now = self._clock()
        session = consumer.session
        if session is not None and session.until_ms <= now:
            return False
        entry = self._pop_ready(self._ready if session is None else self._sessions.ready(session.session_id), now)
        if entry is None:
            return False
        if consumer.removes:
            self._log.remove(entry)
            consumer.deliver(entry, next_token(), None)
        else:
            token, until_ms = self._lock(entry, session, now)
            consumer.deliver(entry, token, until_ms)
        return True

    def _pop_ready(self, heap: list[int], now: int) -> QueuedMessage | None:
        while heap:
            entry = self._log.get(heappop(heap))
            if entry is None or entry.state is not State.ACTIVE or entry.lock_token is not None:
                continue
            if entry.expires_ms is not None and entry.expires_ms <= now:
                self._expire(entry)
                continue
            return entry
        return None

    def _make_ready(self, entry: QueuedMessage, now: int) -> None:
        """Let a message that nobody holds be delivered, unless it has expired or is deferred."""
        if entry.expires_ms is not None and entry.expires_ms <= now:
            self._expire(entry)
            return
        if entry.state is not State.ACTIVE:
            return
        if self.options.requires_session and entry.message.session_id is not None:
            self._sessions.add_ready(entry.message.session_id, entry.sequence_number)
        else:
            heappush(self._ready, entry.sequence_number)
        self._wake(self)

    def _drop_gone(self, session_id: str | None) -> None:
        """Forget the numbers of messages that expired before anybody received: nobody may ever come to skip them."""
        session_id = session_id if self.options.requires_session else None
        heap = self._ready if session_id is None else self._sessions.ready(session_id)
        while heap and heap[0] not in self._log:
            heappop(heap)
        if session_id is not None and not heap:
            self._sessions.drained(session_id)

    def _lock(self, entry: QueuedMessage, session: SessionLock | None, now: int) -> tuple[bytes, int]:
        until_ms = now + self.options.lock_ms if session is None else session.until_ms
        return self._locks.add(entry, until_ms, session), until_ms

    # ---- settlement

    def settle(self, token: bytes, outcome: Outcome, reason: str | None = None, description: str | None = None) -> None:
        """Apply a receiver's decision. Raises `AmqpError` if it no longer holds the message."""
        self._locks.held(token, self._clock())
        self._settle(token, outcome, reason, description)

    def holds(self, token: bytes) -> bool:
        """Whether this lock is still there."""
        return token in self._locks

    def renew_lock(self, tokens: Sequence[bytes]) -> list[int]:
        """Extend locks on messages; returns when they expire now. Raises `AmqpError` if one of them is lost."""
        now = self._clock()
        until_ms = now + self.options.lock_ms
        self._locks.renew(tokens, now, until_ms)
        return [until_ms] * len(tokens)

    def _settle(
        self, token: bytes, outcome: Outcome, reason: str | None = None, description: str | None = None
    ) -> None:
        entry = self._locks.release(token)
        if outcome is Outcome.COMPLETE:
            self._log.remove(entry)
        elif outcome is Outcome.DEAD_LETTER:
            self._dead_letter(entry, reason, description)
        elif outcome is Outcome.DEFER:
            entry.state = State.DEFERRED
            entry.delivery_count += 1
            self._log.update(entry)
            self._make_ready(entry, self._clock())
        elif outcome is Outcome.ABANDON:
            self._count_failure(entry)
        else:
            self._make_ready(entry, self._clock())

    def _count_failure(self, entry: QueuedMessage) -> None:
        entry.delivery_count += 1
        if entry.delivery_count >= self.options.max_delivery_count and not self._is_dead_letters:
            text = f"Message could not be consumed after {entry.delivery_count} delivery attempts."
            self._dead_letter(entry, "MaxDeliveryCountExceeded", text)
            return
        self._log.update(entry)
        self._make_ready(entry, self._clock())

    def _expire(self, entry: QueuedMessage) -> None:
        if self.options.dead_letter_on_expiration:
            self._dead_letter(entry, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._log.remove(entry)

    def _dead_letter(self, entry: QueuedMessage, reason: str | None, description: str | None) -> None:
        given = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        added = {key: value for key, value in given.items() if value is not None}
        self._log.remove(entry)
        moved = QueuedMessage(entry.message, entry.sequence_number, entry.enqueued_ms)
        if added:
            moved.message = entry.message.with_application_properties(added)
        moved.ttl_ms, moved.delivery_count = entry.ttl_ms, entry.delivery_count
        target = self.dead_letters or self
        target._log.insert(moved)
        target._make_ready(moved, self._clock())

    # ---- by sequence number

    def peek(self, first: int, session_id: str | None = None) -> Iterator[QueuedMessage]:
        """Messages from a sequence number on, whatever their state, without locking them."""
        for entry in self._log.since(first):
            if session_id is None or entry.message.session_id == session_id:
                yield entry

    def deferred(self, sequence_numbers: Sequence[int]) -> list[QueuedMessage]:
        """Deferred messages that nobody holds. Raises `AmqpError` if one of them is not there."""
        return self._in_state(State.DEFERRED, sequence_numbers)

    def lock_deferred(self, entry: QueuedMessage, session: SessionLock | None) -> tuple[bytes, int]:
        """Lock a deferred message; returns the token and when the lock expires."""
        return self._lock(entry, session, self._clock())

    def remove_deferred(self, entry: QueuedMessage) -> None:
        """Delete a deferred message that is being received and deleted."""
        self._log.remove(entry)

    def _in_state(self, state: State, sequence_numbers: Sequence[int]) -> list[QueuedMessage]:
        entries = [self._log.get(number) for number in dict.fromkeys(sequence_numbers)]
        found = [entry for entry in entries if entry and entry.state is state and not entry.lock_token]
        if len(found) < len(entries):
            text = f"A {state.name.lower()} message with one of these sequence numbers does not exist, or is locked."
            raise AmqpError(MESSAGE_NOT_FOUND, text)
        return found

    # ---- sessions

    def accept_session(self, session_id: str, consumer: Consumer) -> SessionLock:
        """Lock the session of that name. Raises `AmqpError` if another receiver has it."""
        self._require_sessions()
        now = self._clock()
        held = self._sessions.locks.get(session_id)
        if held is not None and held.until_ms > now:
            raise AmqpError(SESSION_CANNOT_BE_LOCKED, f"The session '{session_id}' is held by another receiver.")
        if held is not None:
            self._lose_session(held)
        return self._sessions.lock(session_id, consumer, now + self.options.lock_ms)

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
        return self._sessions.state(session_id)

    def set_session_state(self, session_id: str, state: bytes | None) -> None:
        """Keep something in the session, or (None) nothing any more. Raises `AmqpError` if the queue is full."""
        if state is not None:
            self.reserve_space(len(state) - len(self._sessions.state(session_id) or b""))
        now = self._clock()
        self._sessions.set_state(session_id, state, now)
        self._journal.session_state(self.path, session_id, state, now)

    def session_ids(self, updated_after_ms: int | None = None) -> list[str]:
        """Sessions with messages or state; with a time, those whose state changed after it."""
        if updated_after_ms is not None:
            return sorted(self._sessions.updated_after(updated_after_ms))
        held = {entry.message.session_id for entry in self._log.values()}
        return sorted({name for name in held if name is not None}.union(self._sessions.updated_after(0)))

    def _require_sessions(self) -> None:
        if not self.options.requires_session:
            raise AmqpError(NOT_ALLOWED, f"'{self.path}' has no sessions; open a receiver without one.")

    def _serve_waiting(self) -> None:
        sessions = self._sessions
        now = self._clock()
        for session_id in sessions.available() if sessions.waiting else ():
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
            self._settle(token, outcome)
        self._sessions.unlock(lock)
        self._wake(self)

    def _lose_session(self, lock: SessionLock) -> None:
        self._drop_session(lock, Outcome.ABANDON)
        lock.owner.session_lost()

    # ---- time

    def tick(self, now: int) -> None:
        """Let time pass: locks expire, scheduled messages become available, messages expire, requests time out."""
        for token in self._locks.expired(now):
            self._settle(token, Outcome.ABANDON)
        for lock in self._sessions.expired(now):
            self._lose_session(lock)
        for entry in self._log.due(now):
            # A message that becomes due is appended as if it were sent now, under a new number.
            self._log.remove(entry)
            self.arrive(entry.message, self._sequence.next(), now)
        for entry in self._log.expired(now):
            if entry.lock_token is None:
                self._expire(entry)
                self._drop_gone(entry.message.session_id)
        for request in self._sessions.overdue(now):
            request.on_timeout()
