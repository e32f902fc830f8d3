"""What one queue holds, in order of sequence numbers, with what becomes due or expires first at hand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from emulators.servicebus.journal import Journal, QueuedMessage
from emulators.servicebus.message import State

_SEQUENCE_BLOCK: Final = 1000
_STALE_SLACK: Final = 1000


class SequenceNumbers:
    """Sequence numbers that never come twice, reserved in blocks so that not every message writes a counter."""

    def __init__(self, path: str, journal: Journal) -> None:
        self._path = path
        self._journal = journal
        self._last = self._reserved = 0

    def next(self) -> int:
        """A number above all that were given out."""
        self._last += 1
        if self._last > self._reserved:
            self._reserved = self._last + _SEQUENCE_BLOCK - 1
            self._journal.reserve(self._path, self._reserved)
        return self._last

    def restore(self, reserved: int) -> None:
        """Go on after the numbers that an earlier process may have given out."""
        self._last = self._reserved = max(reserved, self._reserved)


class MessageLog:
    """The messages of one queue, written to the journal as they come and go."""

    def __init__(self, path: str, journal: Journal) -> None:
        self.size = 0
        """Bytes of all messages."""
        self._path = path
        self._journal = journal
        self._messages: dict[int, QueuedMessage] = {}
        # Entries of messages that are gone stay in these indexes until they come up or are too many.
        self._order: list[int] = []
        self._schedule: list[tuple[int, int]] = []
        self._expiry: list[tuple[int, int]] = []

    def __contains__(self, sequence_number: int) -> bool:
        return sequence_number in self._messages

    def get(self, sequence_number: int) -> QueuedMessage | None:
        """The message with this number, if it is here."""
        return self._messages.get(sequence_number)

    def values(self) -> list[QueuedMessage]:
        """All messages, in no particular order."""
        return list(self._messages.values())

    def since(self, first: int) -> Iterator[QueuedMessage]:
        """Messages from a number on, in order."""
        order = self._order
        for index in range(bisect_left(order, first), len(order)):
            entry = self._messages.get(order[index])
            if entry is not None:
                yield entry

    def insert(self, entry: QueuedMessage) -> None:
        """Add a message."""
        self.restore(entry)
        self._journal.put(self._path, entry)

    def restore(self, entry: QueuedMessage) -> None:
        """Add a message that the journal has already."""
        number = entry.sequence_number
        self._messages[number] = entry
        self.size += entry.message.size
        if not self._order or number > self._order[-1]:
            self._order.append(number)
        elif self._order[place := bisect_left(self._order, number)] != number:  # it may have been here before
            self._order.insert(place, number)
        if entry.state is State.SCHEDULED:
            heappush(self._schedule, (entry.due_ms, number))
        if entry.expires_ms is not None:
            heappush(self._expiry, (entry.expires_ms, number))

    def update(self, entry: QueuedMessage) -> None:
        """Its delivery count or its state changed."""
        self._journal.update(self._path, entry)

    def remove(self, entry: QueuedMessage) -> None:
        """Take a message out."""
        del self._messages[entry.sequence_number]
        self.size -= entry.message.size
        self._journal.remove(self._path, entry.sequence_number)
        limit = 2 * len(self._messages) + _STALE_SLACK
        if len(self._order) > limit:
            self._order = sorted(self._messages)
        if len(self._expiry) > limit:
            self._expiry = self._live(self._expiry)
        if len(self._schedule) > limit:
            self._schedule = self._live(self._schedule)

    def due(self, now: int) -> Iterator[QueuedMessage]:
        """Scheduled messages whose time has come; each comes up once."""
        while self._schedule and self._schedule[0][0] <= now:
            entry = self._messages.get(heappop(self._schedule)[1])
            if entry is not None:
                yield entry

    def expired(self, now: int) -> Iterator[QueuedMessage]:
        """Messages whose time to live is over; each comes up once."""
        while self._expiry and self._expiry[0][0] <= now:
            entry = self._messages.get(heappop(self._expiry)[1])
            if entry is not None:
                yield entry

    def _live(self, heap: list[tuple[int, int]]) -> list[tuple[int, int]]:
        live = [item for item in heap if item[1] in self._messages]
        heapify(live)
        return live
