"""The sweep: looks after turns that nobody drives."""

from __future__ import annotations

import asyncio
import logging
import math
import zlib
from collections.abc import Awaitable, Callable, Sequence

from aos.errors import AosError, ConversationUnreadable, TransientError
from aos.kernel.clock import Clock
from aos.kernel.hold import failure_of
from aos.kernel.operations import holds_open
from aos.kernel.ports import ConversationStore, Due
from aos.kernel.records import replace
from aos.kernel.types import ConversationKey

log = logging.getLogger("aos.kernel")

SWEEP_INTERVAL = 60.0
"""Seconds between two looks at an unfinished operation."""
UNFINISHED = 600.0
"""Seconds for which a due entry without an operation is kept: its acceptance may still be on its way."""


UNREADABLE = 600.0
"""Seconds for which this process finds a conversation unreadable before it ends the operation that waits in it."""


def next_look(name: str, now: float, interval: float) -> float:
    """When to look at something again: in 1 s at the earliest, an interval after that at the latest.

    All instances sweep by the same clock, so several often look at one entry at once, and each writes the next one.
    Its time follows from the name, so that it is the same one: else there would be two, then four, then eight.
    """
    phase = zlib.crc32(name.encode()) % interval
    return phase + (math.floor((now + 1.0 - phase) / interval) + 1.0) * interval


class Sweep:
    """Goes through the due table.

    Args:
        drive: Steps a conversation.
        owner: Name of this process in leases.
        after_lease: Seconds after the end of a lease when it looks whether the owner still lives.
    """

    def __init__(
        self,
        store: ConversationStore,
        clock: Clock,
        drive: Callable[[ConversationKey], Awaitable[None]],
        owner: str,
        after_lease: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._drive = drive
        self._owner = owner
        self._after_lease = after_lease
        self._unreadable: dict[str, float] = {}

    async def run(self, limit: int, patience: float) -> int:
        """Looks after turns that are due: resumes what a dead process left behind, applies deadlines.

        Args:
            limit: Entries that are read at once.
            patience: Seconds after which no further ones are read.

        Returns:
            How many entries were looked at.
        """
        ends = self._clock.now() + patience
        looked_at: set[str] = set()
        left = 0
        while True:
            # Those that were left where they are come again, and must not keep the sweep from what is behind them.
            entries = await self._store.due(self._clock.now(), limit + left)
            full = len(entries) >= limit + left
            fresh = [entry for entry in entries if entry.row not in looked_at]
            left += await self._look_at(fresh)
            looked_at.update(entry.row for entry in fresh)
            if not full or not fresh or self._clock.now() >= ends:
                return len(looked_at)

    async def _look_at(self, entries: Sequence[Due]) -> int:
        """Looks after these; how many of them were left as they are."""
        gate = asyncio.Semaphore(8)
        left = 0

        async def look(entry: Due) -> None:
            nonlocal left
            async with gate:
                over = await self._over(entry)
                if over is None:
                    if self._clock.now() - entry.at > UNFINISHED:
                        await self._store.move_due(entry, None)
                    else:
                        left += 1
                    return
                again = next_look(entry.operation_id, self._clock.now(), SWEEP_INTERVAL)
                try:
                    if not over:
                        await self._go_on(entry)
                        over = await self._over(entry)
                        if over is False:
                            again = await self._next_look(entry, again)
                finally:
                    # Also when that failed: entries that always fail must not keep the sweep from the others.
                    await self._store.move_due(entry, None if over else again)

        results = await asyncio.gather(*map(look, entries), return_exceptions=True)
        for entry, result in zip(entries, results, strict=True):
            if isinstance(result, AosError):
                level = logging.WARNING if isinstance(result, TransientError) else logging.ERROR
                log.log(level, "sweep of %s/%s: %s", *entry.key, result.detail)
            elif isinstance(result, Exception):
                # What is swept after the turns must not have to wait until somebody mends this.
                log.error("sweep of %s/%s failed with an error that nobody foresaw", *entry.key, exc_info=result)
            elif isinstance(result, BaseException):
                raise result
        return left

    async def _go_on(self, entry: Due) -> None:
        try:
            await self._drive(entry.key)
        except ConversationUnreadable as error:
            operation, now = await self._store.operation(entry.operation_id), self._clock.now()
            if operation is None or now - self._unreadable.setdefault(entry.operation_id, now) < UNREADABLE:
                raise
            log.error("operation %s is given up: %s", entry.operation_id, error.detail)
            await self._store.end(
                replace(operation, status="failed", waiting_on=None, error=failure_of(error), updated_at=now)
            )
        self._unreadable.pop(entry.operation_id, None)

    async def _next_look(self, entry: Due, latest: float) -> float:
        """Soon after the lease of an owner elsewhere ends, who may have died."""
        lease = (await self._store.read(entry.key)).lease
        now = self._clock.now()
        if lease.owner in ("", self._owner) or lease.until <= now:
            return latest
        return min(latest, lease.until + self._after_lease)

    async def _over(self, entry: Due) -> bool | None:
        """Whether the operation is done with: it ended, and its reply is out or cannot be sent. None: there is none."""
        try:
            operation = await self._store.operation(entry.operation_id)
        except ConversationUnreadable as error:
            log.error("operation %s: %s", entry.operation_id, error.detail)
            return False
        if operation is None:
            return None
        if not operation.final:
            return False
        try:
            state = (await self._store.read(entry.key)).state
        except ConversationUnreadable:
            return True
        return all(holds_open(out) != entry.operation_id for out in state.outbox)
