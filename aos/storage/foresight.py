"""What the next read of a conversation would find, as far as this process can tell: a read less per arrival.

A conversation that was read at rest (no lease, nothing waits) stays as it is until somebody stores an arrival. When
this process does, the conversation is that state and that arrival, unless another process was faster. If that one wrote
the state, the first write under the ETag of the state at rest is refused, and the conversation is read. If it only
stored an arrival of its own, it finds no lease and goes on by itself, or the look at the arrivals that follows every
release finds it: the same as when it comes right after a read. Only a cancellation is never foreseen: it may be of a
message that was stored before it, by another process or by this one for an agent that is stopped, and it would find
nothing to cancel where that message is not seen.
"""

from __future__ import annotations

from collections import OrderedDict

from aos.kernel.clock import Clock
from aos.kernel.ports import Lease, Snapshot
from aos.kernel.records import replace
from aos.kernel.types import Arrival, Cancellation, Conversation, ConversationKey, Message

KEPT = 1000
"""Conversations of which a process keeps the state; one has up to 24 KiB."""
SECONDS = 1.0
"""For which a foreseen read holds: a drive that has read goes on within that time, too."""


class Foresight:
    """The states in which this process saw conversations at rest, and what is read next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: OrderedDict[ConversationKey, Snapshot] = OrderedDict()
        self._next: OrderedDict[ConversationKey, tuple[Snapshot, float]] = OrderedDict()

    def rests(self, key: ConversationKey, snapshot: Snapshot) -> None:
        """It was read; nobody has the lease, and nothing waits."""
        self._states[key] = snapshot
        if len(self._states) > KEPT:
            self._states.popitem(last=False)

    def accepted(self, key: ConversationKey, message: Message, etag: str | None, *, alone: bool) -> None:
        """A message was stored.

        Args:
            etag: Of the state just before; None: there was none.
            alone: Nothing else waited then.
        """
        known = Snapshot(Conversation(key), Lease(), None) if etag is None else self._states.get(key)
        if not alone or key in self._next or known is None or known.etag != etag:
            self._next.pop(key, None)
        else:
            self._foresee(key, replace(known, inbox=(message,)))

    def arrived(self, key: ConversationKey, arrival: Arrival) -> None:
        """Something else was stored."""
        known = self._states.get(key)
        if key in self._next or known is None or isinstance(arrival, Cancellation):
            self._next.pop(key, None)
        else:
            self._foresee(key, replace(known, arrivals=(arrival,)))

    def forget(self, key: ConversationKey) -> None:
        """The conversation is about to be written, or is not as this process thinks."""
        self._states.pop(key, None)
        self._next.pop(key, None)

    def take(self, key: ConversationKey) -> Snapshot | None:
        """What a read would find; the next one has to look."""
        found = self._next.pop(key, None)
        return None if found is None or found[1] <= self._clock.now() else found[0]

    def _foresee(self, key: ConversationKey, snapshot: Snapshot) -> None:
        self._next[key] = snapshot, self._clock.now() + SECONDS
        if len(self._next) > KEPT:
            self._next.popitem(last=False)
