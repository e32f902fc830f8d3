"""Message sessions: which session has messages, who holds it, and the state that applications keep in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappush
from typing import Protocol

from emulators.servicebus.journal import QueuedMessage


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


class SessionLock:
    """One session in the hands of one receiver; the locks on its messages live and die with it."""

    __slots__ = ("owner", "session_id", "tokens", "until_ms")

    def __init__(self, session_id: str, owner: Consumer, until_ms: int) -> None:
        self.session_id = session_id
        self.owner = owner
        self.until_ms = until_ms
        self.tokens: set[bytes] = set()


class SessionRequest:
    """A receiver that waits for the next session with messages that nobody holds."""

    __slots__ = ("deadline_ms", "on_accepted", "on_timeout", "owner")

    def __init__(
        self,
        owner: Consumer,
        deadline_ms: int,
        on_accepted: Callable[[SessionLock], None],
        on_timeout: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.deadline_ms = deadline_ms
        self.on_accepted = on_accepted
        self.on_timeout = on_timeout


class Sessions:
    """The sessions of one queue."""

    def __init__(self) -> None:
        self.locks: dict[str, SessionLock] = {}
        self.waiting: deque[SessionRequest] = deque()
        self.state_bytes = 0
        self._states: dict[str, tuple[bytes, int]] = {}
        self._ready: dict[str, list[int]] = {}
        # Sessions with messages that nobody holds, in the order in which they became so.
        self._available: dict[str, None] = {}

    def add_ready(self, session_id: str, sequence_number: int) -> None:
        """A message of the session may be delivered."""
        heappush(self._ready.setdefault(session_id, []), sequence_number)
        if session_id not in self.locks:
            self._available[session_id] = None

    def ready(self, session_id: str) -> list[int]:
        """The heap of sequence numbers that may be delivered; numbers of messages that are gone may be among them."""
        return self._ready.get(session_id, [])

    def drained(self, session_id: str) -> None:
        """The heap of the session turned out to be empty."""
        self._ready.pop(session_id, None)
        self._available.pop(session_id, None)

    def available(self) -> Iterator[str]:
        """Sessions that can be accepted, longest available first."""
        yield from list(self._available)

    def lock(self, session_id: str, owner: Consumer, until_ms: int) -> SessionLock:
        """Give the session to a receiver."""
        lock = self.locks[session_id] = SessionLock(session_id, owner, until_ms)
        self._available.pop(session_id, None)
        return lock

    def unlock(self, lock: SessionLock) -> None:
        """Take the session back; its messages become available to others."""
        del self.locks[lock.session_id]
        if self._ready.get(lock.session_id):
            self._available[lock.session_id] = None
        else:
            self._ready.pop(lock.session_id, None)

    def expired(self, now: int) -> list[SessionLock]:
        """Locks whose time is over."""
        return [lock for lock in self.locks.values() if lock.until_ms <= now]

    def overdue(self, now: int) -> list[SessionRequest]:
        """Requests that waited as long as they wanted to; they wait no more."""
        late = [request for request in self.waiting if request.deadline_ms <= now]
        for request in late:
            self.waiting.remove(request)
        return late

    def forget_requests(self, owner: Consumer) -> None:
        """A receiver no longer waits."""
        self.waiting = deque(request for request in self.waiting if request.owner is not owner)

    def state(self, session_id: str) -> bytes | None:
        """What the application keeps in the session."""
        found = self._states.get(session_id)
        return None if found is None else found[0]

    def set_state(self, session_id: str, state: bytes | None, updated_ms: int) -> None:
        """Keep something in the session, or (None) nothing any more."""
        old, _ = self._states.pop(session_id, (b"", 0))
        if state is not None:
            self._states[session_id] = (state, updated_ms)
        self.state_bytes += len(state or b"") - len(old)

    def updated_after(self, time_ms: int) -> list[str]:
        """Sessions whose state changed after a point in time."""
        return [session_id for session_id, (_, updated_ms) in self._states.items() if updated_ms > time_ms]
