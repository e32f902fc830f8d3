"""What processes tell each other of their circuits: rows that are written on change, and read every few seconds.

Nobody waits for it: a message that comes before the news finds out by itself, with a bounded number of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aos.kernel.breaker import Trip
from aos.kernel.clock import Clock
from aos.kernel.tasks import Tasks

NEWS = 5.0
"""Seconds between two looks at what the others say, while there is work."""


class TripBoard(Protocol):
    """Where the trips of all processes stand, one row per circuit. Both raise `StorageUnavailable`."""

    async def put(self, trip: Trip) -> None:
        """Writes what became of a circuit, unless something newer stands there."""
        ...

    async def all(self) -> Sequence[Trip]: ...


class Trips:
    """Tells the others, and hears them.

    Args:
        hear: Told of every trip that stands on the board.
    """

    def __init__(self, board: TripBoard, clock: Clock, tasks: Tasks, hear: Callable[[Trip], None]) -> None:
        self._board = board
        self._clock = clock
        self._tasks = tasks
        self._hear = hear
        self._next = 0.0

    def tell(self, trip: Trip) -> None:
        """Has the others know, soon."""
        self._tasks.spawn(self._board.put(trip), f"news of {trip.name}")

    def look(self) -> None:
        """Has this process know what the others say, soon; costs nothing while that is fresh."""
        now = self._clock.now()
        if now >= self._next:
            self._next = now + NEWS
            self._tasks.spawn(self._read(), "news of circuits")

    async def _read(self) -> None:
        for trip in await self._board.all():
            self._hear(trip)
