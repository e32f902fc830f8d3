"""Duplicate detection: a message id that was seen within the window is accepted and dropped."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from emulators.servicebus.journal import Journal

MAX_REMEMBERED: Final = 500_000
"""Ids kept for one entity; beyond it the oldest are forgotten before their window ends."""


class DuplicateWindow:
    """The message ids that one entity saw during the last `window_ms` milliseconds."""

    def __init__(self, path: str, window_ms: int, journal: Journal) -> None:
        self._path = path
        self._window_ms = window_ms
        self._journal = journal
        self._seen: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def find(self, message_id: str, now: int) -> int | None:
        """The sequence number of the first message with this id, or None if it is new."""
        self._expire(now)
        found = self._seen.get(message_id)
        return None if found is None else found[1]

    def remember(self, message_id: str, now: int, sequence_number: int) -> None:
        """Start the window of a message id."""
        self._seen[message_id] = (now, sequence_number)
        self._journal.remember(self._path, message_id, now, sequence_number)
        if len(self._seen) > MAX_REMEMBERED:
            self._forget_oldest()

    def restore(self, message_id: str, seen_ms: int, sequence_number: int) -> None:
        """Take over an id that the journal kept; ids come oldest first."""
        self._seen[message_id] = (seen_ms, sequence_number)

    def _expire(self, now: int) -> None:
        while self._seen:
            seen_ms, _ = next(iter(self._seen.values()))
            if seen_ms + self._window_ms > now:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        message_id, _ = self._seen.popitem(last=False)
        self._journal.forget(self._path, message_id)
