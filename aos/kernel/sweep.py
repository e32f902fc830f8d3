"""The sweep: looks after turns that nobody drives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aos.errors import AosError, TransientError
from aos.kernel.clock import Clock
from aos.kernel.operations import holds_open
from aos.kernel.ports import ConversationStore, Due
from aos.kernel.types import ConversationKey

log = logging.getLogger("aos.kernel")

SWEEP_INTERVAL = 60.0
"""Seconds after which the sweep looks at an unfinished operation again."""
UNFINISHED = 600.0
"""Seconds for which a due entry without an operation is kept: its acceptance may still be on its way."""


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

    async def run(self, limit: int) -> int:
        """Looks after turns that are due: resumes what a dead process left behind, applies deadlines.

        Returns:
            How many entries were looked at.
        """
        entries = await self._store.due(self._clock.now(), limit)
        gate = asyncio.Semaphore(8)

        async def look(entry: Due) -> None:
            async with gate:
                over = await self._over(entry)
                if over is None:
                    if self._clock.now() - entry.at > UNFINISHED:
                        await self._store.move_due(entry, None)
                    return
                again = self._clock.now() + SWEEP_INTERVAL
                try:
                    if not over:
                        await self._drive(entry.key)
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
            elif isinstance(result, BaseException):
                raise result
        return len(entries)

    async def _next_look(self, entry: Due, latest: float) -> float:
        """Soon after the lease of an owner elsewhere ends, who may have died."""
        lease = (await self._store.read(entry.key)).lease
        now = self._clock.now()
        if lease.owner in ("", self._owner) or lease.until <= now:
            return latest
        return min(latest, lease.until + self._after_lease)

    async def _over(self, entry: Due) -> bool | None:
        """Whether nothing remains to be done for the operation: it ended, and its reply is out. None: there is none."""
        operation = await self._store.operation(entry.operation_id)
        if operation is None:
            return None
        if not operation.final:
            return False
        state = (await self._store.read(entry.key)).state
        return all(holds_open(out) != entry.operation_id for out in state.outbox)
